"""What mixing GPU types is worth on every shipped mixed cluster: the plan against one pool per type and an even split.

For each cluster: goodput of the plan for vLLM and with any TP per stage; of the best pools of one node class each,
every one planned alone; and of replicas that span whole classes with layers split evenly. Fails where the plan is less
than the pools, or any TP serves less than one TP under the same engine.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from planner.cluster import Cluster, load_cluster
from planner.cost.memory import tensor_parallel_fault
from planner.cost.prediction import PlacedStage, predict_serving
from planner.engine import load_engine
from planner.errors import InfeasibleError, PlannerError
from planner.model import load_model
from planner.search.problem import Budget, ServingProblem
from planner.search.serving import search_templates
from planner.workload import Slo, load_trace

CLUSTERS = (
    "a100-l40s-l4-24",
    "a100-l40s-l4-t4-64",
    "a100-v100-t4-32",
    "h100-a100-32",
    "l40s-l4-16",
    "helix-24",
    "hexgen-58",
)
MODELS = (("llama-3.1-70b", 8.0, 0.4), ("llama-3.1-8b", 2.0, 0.1))


def goodput(problem: ServingProblem) -> float:
    """Greatest goodput; 0 where nothing can serve."""
    try:
        return search_templates(problem, Budget(time_limit=30)).plan.predicted["goodput"].value
    except InfeasibleError:
        return 0.0


def pools(problem: ServingProblem) -> float:
    """Every node class by itself."""
    cluster = problem.cluster
    return sum(goodput(replace(problem, cluster=_alone(cluster, c))) for c in range(len(cluster.classes)))


def _alone(cluster: Cluster, c: int) -> Cluster:
    return replace(cluster, classes=(cluster.classes[c],))


def even_split(problem: ServingProblem) -> float:
    """One replica over whole nodes of all classes: TP of the smallest node, equal layers."""
    cluster, layers = problem.cluster, problem.model.num_layers
    tp = min(c.gpus_per_node for c in cluster.classes)
    while tensor_parallel_fault(problem.model, tp) is not None:
        tp -= 1
    groups = [
        tuple(cluster.gpus_of(node)[i : i + tp])
        for c in cluster.classes
        for node in c.nodes
        for i in range(0, c.gpus_per_node - tp + 1, tp)
    ]
    groups = groups[:layers]
    edges = [round(layers * s / len(groups)) for s in range(len(groups) + 1)]
    stages = [PlacedStage(g, (a, b)) for g, a, b in zip(groups, edges, edges[1:], strict=False)]
    figures = predict_serving(problem.model, cluster, problem.engine, problem.workload, [stages]).figures
    return figures["goodput"].value if "goodput" in figures else 0.0


def main() -> int:
    """Print the table."""
    trace = load_trace("azure-conv-2023")
    failed = False
    print("cluster             model           vllm   generic     pools  even split  vllm/pools  vllm/even")
    for name in CLUSTERS:
        for model, ttft, tpot in MODELS:
            problem = ServingProblem(
                model=load_model(model),
                cluster=load_cluster(name),
                engine=load_engine("vllm"),
                workload=trace.summary(Slo(ttft=ttft, tpot=tpot), rate="max"),
            )
            try:
                mixed, alone, even = goodput(problem), pools(problem), even_split(problem)
                free = goodput(replace(problem, engine=load_engine("generic")))
            except PlannerError as error:
                print(f"{name:19s} {model:14s} {error}")
                continue
            failed |= mixed < alone * (1 - 1e-3) or mixed < even * (1 - 1e-3)
            print(
                f"{name:19s} {model:14s} {mixed:7.3f}  {free:8.3f}  {alone:8.3f}  {even:10.3f}"
                f"  {mixed / alone if alone else float('inf'):10.3f}  {mixed / even if even else float('inf'):9.3f}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
