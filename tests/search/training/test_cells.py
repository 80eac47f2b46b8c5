"""The exact search on arrays: against every path in plain loops, CP-SAT, and its invariants."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from planner.search.training.cells import Answer, search_graphs
from planner.search.training.stage_graph import StageGraph
from tests.search.training.graphs import best_of_every_path, random_graphs, within_budget

# `HETPLAN_MANY=1` tries as many instances as the search was accepted on.
MANY = bool(os.environ.get("HETPLAN_MANY"))
AGAINST_ALL, INVARIANT = (300, 1000) if MANY else (40, 60)


def check(graphs: list[StageGraph], answer: Answer) -> None:
    """What holds for every answer that has a plan."""
    assert answer.graph is not None
    graph = graphs[answer.graph]
    spans = [(start, end) for _, start, end in answer.path]
    assert spans[0][0] == 0 and spans[-1][1] == graph.num_layers
    assert all(a[1] == b[0] for a, b in pairwise(spans)) and all(start < end for start, end in spans)
    depth = len(answer.path)
    assert all(graph.depth_CNN[stage] >= depth - s for s, stage in enumerate(answer.path))
    assert within_budget(graph, answer.path)
    assert answer.seconds == pytest.approx(graph.price(answer.path)[0], rel=1e-12)
    assert answer.bound <= answer.seconds


@pytest.mark.parametrize("seed", range(AGAINST_ALL))
def test_equals_every_path_tried(seed: int) -> None:
    graphs = random_graphs(seed)
    best, _ = best_of_every_path(graphs)
    answer = search_graphs(graphs)
    assert answer.closed
    if math.isinf(best):
        assert answer.graph is None and math.isinf(answer.seconds)
        return
    check(graphs, answer)
    assert answer.seconds == pytest.approx(best, rel=1e-9)
    assert answer.bound == answer.seconds


@pytest.mark.parametrize("seed", range(1000, 1000 + INVARIANT))
def test_invariants(seed: int) -> None:
    """A slower link never helps; one more GPU and a little more memory never hurt."""
    graphs = random_graphs(seed)
    answer = search_graphs(graphs)
    assert answer.closed
    slower = [replace(graph, end_CN=graph.end_CN * 1.5, sync_CNN=graph.sync_CNN * 1.5) for graph in graphs]
    roomier = [replace(graph, depth_CNN=np.where(graph.depth_CNN > 0, graph.depth_CNN + 1, 0)) for graph in graphs]
    larger = [replace(graph, counts_K=graph.counts_K + (np.arange(len(graph.counts_K)) == 0)) for graph in graphs]
    assert search_graphs(slower).seconds >= answer.seconds * (1 - 1e-9)
    assert search_graphs(roomier).seconds <= answer.seconds * (1 + 1e-9)
    assert search_graphs(larger).seconds <= answer.seconds * (1 + 1e-9)
    if answer.graph is not None:
        check(graphs, answer)


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_a_tolerance_is_kept(seed: int) -> None:
    exact, loose = search_graphs(random_graphs(seed)), search_graphs(random_graphs(seed), tolerance=0.05)
    if exact.graph is None:
        assert loose.graph is None
        return
    assert loose.bound <= exact.seconds * (1 + 1e-9)
    assert loose.seconds <= exact.seconds * 1.06 and loose.closed


def test_random_graphs_are_worth_trying() -> None:
    """Some jobs do not fit; some plans have several stages, some a mixed one, some leave GPUs idle."""
    answers = [(graphs, search_graphs(graphs)) for graphs in map(random_graphs, range(60))]
    found = [(graphs[a.graph], a) for graphs, a in answers if a.graph is not None]
    assert 0 < len(found) < len(answers)
    assert any(len(a.path) >= 3 for _, a in found)
    assert any(graph.flexible_C[c] for graph, a in found for c, _, _ in a.path)
    assert any(graph.degree > 1 for graph, _ in found)


def test_out_of_time_is_honest() -> None:
    graphs = random_graphs(0)
    answer = search_graphs(graphs, time_limit=0.0)
    assert not answer.closed
    assert answer.bound <= search_graphs(graphs).seconds


def test_same_answer_for_every_hash_seed() -> None:
    code = (
        "from planner.search.training.cells import search_graphs\n"
        "from tests.search.training.graphs import random_graphs\n"
        "for seed in range(6):\n    a = search_graphs(random_graphs(seed)); print(a.seconds, a.graph, a.path)\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("seed", range(200, 210))
def test_equals_cp_sat(seed: int) -> None:
    """One microbatch size and degree, against an independent formulation in integers."""
    graph = random_graphs(seed)[0]
    answer = search_graphs([graph])
    assert _cp_sat(graph) == pytest.approx(answer.seconds, rel=1e-4)


def _cp_sat(graph: StageGraph) -> float:
    from ortools.sat.python import cp_model

    unit = 1e6
    model = cp_model.CpModel()
    L, C, K = graph.num_layers, len(graph.use_CK), len(graph.counts_K)
    worst, best = 10**12, math.inf
    hops = graph.hops

    def whole(value: float) -> int:
        return round(unit * float(value))

    for S in range(1, min(L, graph.max_stages) + 1):
        model = cp_model.CpModel()
        stage = {
            (s, c, i, j): model.new_bool_var(f"x{s}_{c}_{i}_{j}")
            for s in range(S)
            for c in range(C)
            for i in range(L)
            for j in range(i + 1, L + 1)
            if graph.depth_CNN[c, i, j] >= S - s and (i == 0) == (s == 0) and (j == L) == (s == S - 1)
        }
        for s in range(S):
            model.add_exactly_one([x for key, x in stage.items() if key[0] == s])
        hop = [model.new_int_var(0, worst, f"h{s}") for s in range(S - 1)]
        peak, sync, update = (model.new_int_var(0, worst, name) for name in ("z", "g", "u"))
        total = []
        on = {}
        for (s, c, i, j), x in stage.items():
            model.add(sync >= whole(graph.sync_CNN[c, i, j]) * x)
            model.add(update >= whole(graph.update_CNN[c, i, j]) * x)
            total.append(whole(graph.total_CNN[c, i, j]) * x)
            if s + 1 < S:
                model.add(hop[s] >= whole(graph.end_CN[c, j]) * x)
            if s > 0:
                model.add(hop[s - 1] >= whole(graph.end_CN[c, i]) * x)
            last = 1.0 if S == 1 or s + 1 < S else hops.last
            around = [int(hops.peak_before * last) * hop[s - 1]] if s else []
            around += [int(hops.peak_after) * hop[s]] if s + 1 < S else []
            model.add(peak >= whole(graph.peak_CNN[c, i, j]) + sum(around)).only_enforce_if(x)
            if graph.flexible_C[c]:
                members = [int(k) for k in np.flatnonzero(graph.replica_CK[c])]
                counts = [model.new_int_var(0, graph.degree, f"n{s}_{c}_{i}_{j}_{k}") for k in members]
                model.add(sum(counts) == graph.degree * x)
                for k, n in zip(members, counts, strict=True):
                    on.setdefault(k, []).append(int(graph.replica_CK[c, k]) * n)
            else:
                for k in range(K):
                    on.setdefault(k, []).append(int(graph.use_CK[c, k]) * x)
            for other_s, other_c, other_i, other_j in stage:
                if other_s == s + 1 and other_i != j:
                    model.add_bool_or(x.negated(), stage[other_s, other_c, other_i, other_j].negated())
        for k in range(K):
            model.add(sum(on.get(k, [])) <= int(graph.counts_K[k]))
        for s in range(S - 1):
            last = hops.last if s + 2 == S else 1.0
            total.append(int(hops.sum_after + hops.sum_before * last) * hop[s])
        model.minimize((graph.microbatches - 1) * peak + sum(total) + sync + update)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 2
        if solver.solve(model) == cp_model.OPTIMAL:
            best = min(best, solver.objective_value / unit + graph.constant)
    return best
