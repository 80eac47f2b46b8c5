"""The exact serving search against HexGen's method, UELLM's, and what people do without a planner.

1. HexGen's 58 GPUs, Llama-2-70B: goodput of the exact method at least that of the genetic one after 300 generations,
   in under a tenth of its time. Fails where the goodput is less, or more than the bound; the times are printed.
2. Every shipped cluster with more than one GPU type: goodput of the exact method over that of the best homogeneous
   pools, of the best even split (vLLM's or SGLang's), and of the other methods.

    python benchmarks/search_methods.py [CLUSTER ...]
"""

from __future__ import annotations

import sys
import time
from typing import Final

from rich.console import Console
from rich.table import Table

from planner.api import serving_problem
from planner.cluster import list_clusters, load_cluster
from planner.search.hexgen import EvolvedResult, search_hexgen
from planner.search.problem import Budget, ServingProblem
from planner.search.serving import search_templates
from planner.search.side_by_side import MethodOutcome, run_methods
from planner.workload import Slo, fixed_workload

GENERATIONS: Final = 300
TIME_LIMIT: Final = 60.0
MOST_GPUS: Final = 64  # of a cluster in the table; larger ones take more than a minute
EQUAL: Final = 1e-3  # relative distance below which two goodputs are called equal
OTHERS: Final = ("helr", "petals", "swarm")
# A model that the cluster's GPUs can share, where 70 B parameters are too many or too few.
MODELS: Final = {"helix-10": "llama-2-13b", "l40s-l4-16": "llama-3.1-70b-fp8", "metis-16": "llama-2-13b"}


def problem_on(cluster: str, model: str) -> ServingProblem:
    workload = fixed_workload(512, 128, rate="max", slo=Slo(ttft=5.0, tpot=0.2))
    return serving_problem(model, cluster, workload)


def hexgen_cluster(console: Console) -> int:
    problem = problem_on("hexgen-58", "llama-2-70b")
    started = time.process_time()
    genetic: EvolvedResult = search_hexgen(problem, Budget(time_limit=600), generations=GENERATIONS)
    between = time.process_time()
    exact = search_templates(problem, Budget(time_limit=TIME_LIMIT))
    cpu_genetic, cpu_exact = between - started, time.process_time() - between
    ours, theirs = exact.plan.certificate, genetic.plan.certificate
    falls = sum(b < a for a, b in zip(genetic.history, genetic.history[1:], strict=False))
    table = Table(title="Llama-2-70B on HexGen's 58 GPUs: ISL 512, OSL 128, TTFT 5 s, TPOT 200 ms")
    for heading in ("method", "requests/s", "bound", "seconds", "CPU seconds", "looked at"):
        table.add_column(heading, justify="left" if heading in ("method", "looked at") else "right")
    for name, value, bound, cpu, result in (
        ("exact", ours.value, f"{ours.bound:.3f}", cpu_exact, exact),
        (f"genetic, {genetic.counts['generations']} generations", theirs.value, "-", cpu_genetic, genetic),
    ):
        counts = ", ".join(f"{n:,} {what}" for what, n in result.counts.items())
        table.add_row(name, f"{value:.3f}", bound, f"{result.seconds:.2f}", f"{cpu:.2f}", counts)
    console.print(table)
    share = cpu_exact / cpu_genetic  # other programs may be using the machine
    marks = (0, 1, 10, 30, 100, 200, 300)
    written = ", ".join(f"{genetic.history[g]:.2f}" for g in marks if g < len(genetic.history))
    console.print(f"genetic best so far at generations {marks}: {written}; falls {falls} times")
    console.print(
        f"exact / genetic: goodput {ours.value / theirs.value:.4f}, CPU time {share:.2f}"
        f" ({'under' if share < 0.1 else 'NOT under'} a tenth)\n"
    )
    return int(ours.value < theirs.value * (1 - 1e-9)) + falls


def mixed_clusters(console: Console, names: list[str]) -> int:
    table = Table(title="exact over others, goodput: ISL 512, OSL 128, TTFT 5 s, TPOT 200 ms, vLLM")
    for heading in ("cluster", "model"):
        table.add_column(heading)
    for heading in ("exact/s", "gap", "over pools", "over even", *(f"over {name}" for name in OTHERS), "seconds"):
        table.add_column(heading, justify="right")
    worse = 0
    for name in names:
        problem = problem_on(name, MODELS.get(name, "llama-2-70b"))
        methods = ("exact", "pools", "even-vllm", "even-sglang", *OTHERS)
        outcomes = {one.method: one for one in run_methods(problem, methods, Budget(time_limit=TIME_LIMIT))}
        exact = outcomes["exact"].plan
        if exact is None:
            table.add_row(name, problem.model.name, "no plan", *[""] * 6, f"{outcomes['exact'].seconds:.1f}")
            continue
        value = exact.certificate.value
        even = max((outcomes["even-vllm"], outcomes["even-sglang"]), key=_goodput)
        rivals = [outcomes["pools"], even, *(outcomes[other] for other in OTHERS)]
        worse += sum(value < _goodput(one) * (1 - EQUAL) for one in rivals)
        table.add_row(
            name,
            problem.model.name,
            f"{value:.2f}",
            f"{exact.certificate.gap:.2%}",
            *(_ratio(value, one) for one in rivals),
            f"{outcomes['exact'].seconds:.1f}",
        )
    console.print(table)
    console.print(f"{worse} better than the exact method" if worse else "none of them better than the exact method")
    return worse


def _goodput(one: MethodOutcome) -> float:
    return 0.0 if one.plan is None else one.plan.certificate.value


def _ratio(value: float, one: MethodOutcome) -> str:
    other = _goodput(one)
    if not other:
        return "cannot serve"
    return "equal" if abs(value / other - 1) < EQUAL else f"{value / other:.3f}"


def main() -> int:
    console = Console(width=160)
    names = sys.argv[1:]
    missed = 0 if names else hexgen_cluster(console)
    if not names:
        clusters = [load_cluster(name) for name in list_clusters()]
        names = [c.name for c in clusters if len({k.device.name for k in c.classes}) > 1 and c.num_gpus <= MOST_GPUS]
    return 1 if missed + mixed_clusters(console, names) else 0


if __name__ == "__main__":
    sys.exit(main())
