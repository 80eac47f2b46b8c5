"""How long the serving search takes, and how far its plans provably are from the best, by size of the cluster.

Llama-3.1-70B on four node classes (A100, L40S, L4, T4) for the lengths of a real trace, as vLLM can be told it and with
any TP per stage, at a TPOT that only large stages meet and at one that almost everything does; then a time limit of a
second on the largest. Fails where a plan takes more CPU time than its budget, or a gap is more than 3 %.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from planner.cluster import Cluster, load_cluster
from planner.engine import load_engine
from planner.model import load_model
from planner.search.problem import Budget, ServingProblem
from planner.search.serving import search_templates
from planner.workload import Slo, load_trace

CLASSES = (("a100_sxm_80", 8, 0.125), ("l40s", 4, 0.25), ("l4", 4, 0.3125), ("t4", 4, 0.3125))
BUDGET = {"vllm": 1.0, "generic": 10.0}  # seconds of CPU time on an idle core
SLACK = 3.0  # of the budgets, for other machines
MOST_GAP = 0.03


def cluster_of(gpus: int) -> Cluster:
    """Four node classes that share so many GPUs."""
    lines = ["name: made", "source: made for a benchmark", "kind: example", 'date: "2026-11"', "nodes:"]
    for gpu, size, share in CLASSES:
        lines += [
            f"  - name: {gpu}",
            f"    count: {max(1, round(gpus * share / size))}",
            f"    gpu: {gpu}",
            f"    gpus_per_node: {size}",
            "    nic: {bandwidth: 100 Gb/s, latency: 10 us}",
        ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.yaml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return load_cluster(path)


def main() -> int:
    """Print the table."""
    model, trace = load_model("llama-3.1-70b"), load_trace("azure-conv-2023")
    search_templates(  # imports and tables that are loaded once
        ServingProblem(
            model=model,
            cluster=cluster_of(24),
            engine=load_engine("vllm"),
            workload=trace.summary(Slo(ttft=2.0, tpot=0.1), rate="max"),
        ),
        Budget(),
    )
    late = False
    print("GPUs  engine   TPOT   limit  wall s   CPU s  multisets  priced   plan req/s    bound     gap  proven")
    runs = [(n, e, t, 60.0) for n in (24, 64, 256, 1024) for e in ("vllm", "generic") for t in (0.1, 0.4)]
    for gpus, engine, tpot, limit in [*runs, (1024, "generic", 0.4, 1.0), (1024, "vllm", 0.4, 1.0)]:
        problem = ServingProblem(
            model=model,
            cluster=cluster_of(gpus),
            engine=load_engine(engine),
            workload=trace.summary(Slo(ttft=20 * tpot, tpot=tpot), rate="max"),
        )
        busy, wall = time.process_time(), time.monotonic()
        result = search_templates(problem, Budget(time_limit=limit))
        busy, wall = time.process_time() - busy, time.monotonic() - wall
        found = result.plan.certificate
        allowed = (3.0 if limit < 2 else BUDGET[engine]) * SLACK
        good = busy <= allowed and (limit < 2 or found.gap <= MOST_GAP)
        late |= not good
        print(
            f"{gpus:4d}  {engine:8s} {tpot:4.1f} s {limit:5.0f} s {wall:7.2f} {busy:7.2f}"
            f"  {result.counts['multisets']:9,d}  {result.counts['templates']:6d}  {found.value:11.4f}"
            f" {found.bound:8.3f} {found.gap:7.3%}  {found.proven}"
            f"{'' if good else '   over budget'}",
            flush=True,
        )
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
