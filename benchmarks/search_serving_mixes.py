"""What mixing GPU types is worth on every shipped mixed cluster: the plan against pools and even splits.

For each cluster and a model that its GPUs can share: goodput of the plan for vLLM and with any TP per stage; of the
best pools of one node class each, every one planned alone by the same search; of the best homogeneous pools that trying
every TP and depth finds; and of all GPUs cut evenly with the layers that vLLM and SGLang split when told nothing. Says
where the plan equals one of them. Fails where it is less than any, or any TP serves less than one.

    python benchmarks/search_serving_mixes.py [CLUSTER ...]
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Final

from planner.cluster import Cluster, list_clusters, load_cluster
from planner.engine import load_engine
from planner.errors import InfeasibleError
from planner.model import load_model
from planner.search.problem import Budget, ServingProblem
from planner.search.serving import search_templates
from planner.search.side_by_side import run_methods
from planner.workload import Slo, load_trace

BASELINES: Final = ("pools", "even-vllm", "even-sglang")
EQUAL: Final = 1e-3  # relative distance below which two goodputs are called equal
TIME_LIMIT: Final = 60.0
# A model that the cluster's GPUs can share; Llama-3.1-70B where nothing is said.
MODELS: Final = {"helix-10": "llama-2-13b", "l40s-l4-16": "llama-3.1-70b-fp8", "metis-16": "llama-2-13b"}


def goodput(problem: ServingProblem) -> tuple[float, float]:
    """Greatest goodput and the certificate's gap; 0 where nothing can serve."""
    try:
        found = search_templates(problem, Budget(time_limit=TIME_LIMIT)).plan.certificate
    except InfeasibleError:
        return 0.0, 0.0
    return found.value, found.gap


def alone(problem: ServingProblem) -> float:
    """Every node class by itself."""
    cluster = problem.cluster
    return sum(goodput(replace(problem, cluster=_alone(cluster, c)))[0] for c in range(len(cluster.classes)))


def _alone(cluster: Cluster, c: int) -> Cluster:
    return replace(cluster, classes=(cluster.classes[c],))


def compared(value: float, other: float) -> str:
    """Ratio in words."""
    if not other:
        return "cannot" if value else "-"
    return "equals" if abs(value / other - 1) < EQUAL else f"{value / other:.3f}"


def mixed() -> list[str]:
    """Names of the shipped clusters with more than one GPU type."""
    clusters = [load_cluster(name) for name in list_clusters()]
    return [cluster.name for cluster in clusters if len({c.device.name for c in cluster.classes}) > 1]


def main() -> int:
    """Print the table."""
    trace = load_trace("azure-conv-2023")
    failed = False
    print("plan over: one search per class, homogeneous pools, even split by vLLM and by SGLang, one TP (for any TP)")
    print(f"{'cluster':19s} {'model':16s}    TPOT   plan/s     gap  classes    pools  ev-vllm   ev-sgl  any TP   CPU s")
    for name in sys.argv[1:] or mixed():
        for ttft, tpot in ((8.0, 0.4), (4.0, 0.1)):
            problem = ServingProblem(
                model=load_model(MODELS.get(name, "llama-3.1-70b")),
                cluster=load_cluster(name),
                engine=load_engine("vllm"),
                workload=trace.summary(Slo(ttft=ttft, tpot=tpot), rate="max"),
            )
            started = time.process_time()
            value, gap = goodput(problem)
            spent = time.process_time() - started
            others = [alone(problem)]
            for one in run_methods(problem, BASELINES, Budget(time_limit=TIME_LIMIT)):
                others.append(0.0 if one.plan is None else one.plan.certificate.value)
            free, _ = goodput(replace(problem, engine=load_engine("generic")))
            failed |= any(value < other * (1 - EQUAL) for other in others) or free < value * (1 - 1e-9)
            ratios = "".join(f" {compared(value, other):>8s}" for other in others)
            print(
                f"{name:19s} {problem.model.name:16s} {tpot * 1e3:4.0f} ms {value:8.3f} {gap:7.2%}{ratios}"
                f" {compared(free, value):>7s} {spent:7.2f}",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
