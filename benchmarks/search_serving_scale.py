"""How long the serving search takes, and how far its plans provably are from the best, by size of the cluster.

Llama-3.1-70B on four node classes (A100, L40S, L4, T4) for the lengths of a real trace, as vLLM can be told it and with
any TP per stage, at a TPOT that only large stages meet and at one that almost everything does; then a time limit of a
second on the largest; then seven node classes with up to 16 stages, whose multisets nobody enumerates. Last, what the
dynamic program adds to a pool of two kinds at most is held against the whole family, enumerated up to six stages. Fails
where a plan takes more CPU time than its budget, a gap is more than it should be, or the two relaxations differ.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from planner.cluster import Cluster, load_cluster
from planner.engine import load_engine
from planner.model import load_model
from planner.search.problem import Budget, ServingProblem
from planner.search.serving import search_templates
from planner.search.template_choice import TemplateChooser
from planner.search.template_pool import enumerate_multisets
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import stage_kinds
from planner.workload import Slo, load_trace

CLASSES = (("a100_sxm_80", 8, 0.125), ("l40s", 4, 0.25), ("l4", 4, 0.3125), ("t4", 4, 0.3125))
SEVEN = (
    ("h100_sxm", 8, 0.125),
    ("a100_sxm_80", 8, 0.125),
    ("l40s", 8, 0.125),
    ("v100_sxm_32", 8, 0.125),
    ("a10g", 4, 0.1875),
    ("l4", 4, 0.15625),
    ("t4", 4, 0.15625),
)
BUDGET = {"vllm": 1.0, "generic": 10.0}  # seconds of CPU time on an idle core
SLACK = 3.0  # of the budgets, for other machines
MOST_GAP = 0.03
SEVEN_SECONDS, SEVEN_GAP = 40.0, 0.005
SAME = 1e-6  # relative distance of two relaxations


def cluster_of(gpus: int, classes: tuple[tuple[str, int, float], ...] = CLASSES) -> Cluster:
    """Node classes that share so many GPUs."""
    lines = ["name: made", "source: made for a benchmark", "kind: example", 'date: "2026-11"', "nodes:"]
    for gpu, size, share in classes:
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


def problem_of(cluster: Cluster, engine: str, tpot: float, max_stages: int | None = None) -> ServingProblem:
    """Llama-3.1-70B for the lengths of a trace."""
    return ServingProblem(
        model=load_model("llama-3.1-70b"),
        cluster=cluster,
        engine=load_engine(engine),
        workload=load_trace("azure-conv-2023").summary(Slo(ttft=20 * tpot, tpot=tpot), rate="max"),
        max_stages=max_stages,
    )


def planned(problem: ServingProblem, limit: float, seconds: float, gap: float) -> bool:
    """Plan and print a line; whether it kept to so many seconds and to the gap."""
    busy, wall = time.process_time(), time.monotonic()
    result = search_templates(problem, Budget(time_limit=limit))
    busy, wall = time.process_time() - busy, time.monotonic() - wall
    found = result.plan.certificate
    good = busy <= seconds * SLACK and (limit < 2 or found.gap <= gap)
    print(
        f"{problem.cluster.num_gpus:4d}  {problem.engine.name:8s} {problem.workload.slo.tpot:4.1f} s {limit:5.0f} s"
        f" {wall:7.2f} {busy:7.2f}  {result.counts['multisets']:9,d}  {result.counts['templates']:6d}"
        f"  {found.value:11.4f} {found.bound:8.3f} {found.gap:7.3%}  {found.proven}{'' if good else '   over budget'}",
        flush=True,
    )
    return good


def relaxations(problem: ServingProblem, depth: int) -> tuple[float, float]:
    """Optimum without whole numbers, by what the dynamic program adds to two kinds at most, and over everything."""
    kinds = stage_kinds(problem)
    pricer = TemplatePricer(problem, kinds)
    found = []
    for most in (1, 10**9):
        pool = enumerate_multisets(problem, kinds, depth, most=most)
        relaxed = TemplateChooser(problem, kinds, pricer, pool, depth, Budget()).relax(np.ones(len(kinds)))
        found.append(0.0 if relaxed is None else relaxed.value)
    return found[0], found[1]


def main() -> int:
    """Print the tables."""
    search_templates(problem_of(cluster_of(24), "vllm", 0.1), Budget())  # imports and tables that are loaded once
    good = True
    print("GPUs  engine   TPOT   limit  wall s   CPU s  multisets  priced   plan req/s    bound     gap  proven")
    runs = [(n, e, t, 60.0) for n in (24, 64, 256, 1024) for e in ("vllm", "generic") for t in (0.1, 0.4)]
    for gpus, engine, tpot, limit in [*runs, (1024, "generic", 0.4, 1.0), (1024, "vllm", 0.4, 1.0)]:
        seconds = 3.0 if limit < 2 else BUDGET[engine]
        good &= planned(problem_of(cluster_of(gpus), engine, tpot), limit, seconds, MOST_GAP)
    print("seven node classes, 16 stages:")
    for tpot in (0.1, 0.4):
        problem = problem_of(cluster_of(256, SEVEN), "generic", tpot, max_stages=16)
        good &= planned(problem, 70.0, SEVEN_SECONDS, SEVEN_GAP)
    print("four node classes, 256 GPUs, any TP, without whole numbers: dynamic program, everything enumerated")
    for depth in (4, 6):
        for tpot in (0.1, 0.4):
            priced, whole = relaxations(problem_of(cluster_of(256), "generic", tpot), depth)
            good &= abs(priced - whole) <= SAME * whole
            print(f"{depth} stages, TPOT {tpot} s: {priced:.9f} {whole:.9f}, {priced / whole - 1:+.1e}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
