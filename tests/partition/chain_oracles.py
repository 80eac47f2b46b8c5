"""Plain, slow answers to what the chain programs answer: enumeration, and CP-SAT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, pairwise, permutations

import numpy as np

__all__ = ["all_splits", "chains_by_enumeration", "chains_by_subsets", "latency_by_cp_sat"]


def all_splits(layers: int, parts: int) -> Iterator[tuple[int, ...]]:
    for cuts in combinations(range(1, layers), parts - 1):
        yield tuple(b - a for a, b in pairwise((0, *cuts, layers)))


def chains_by_enumeration(
    time_DNN: np.ndarray, hop_DD: np.ndarray, device_class: list[int], objective: str
) -> list[float]:
    """Least value for each number of devices: every order of every subset, every split."""
    layers = time_DNN.shape[1] - 1
    best = []
    for used in range(1, min(len(device_class), layers) + 1):
        least = math.inf
        for order in {tuple(device_class[i] for i in p) for p in permutations(range(len(device_class)), used)}:
            hops = [hop_DD[a, b] for a, b in pairwise(order)]
            for split in all_splits(layers, used):
                first, parts = 0, list(hops)
                for d, count in zip(order, split, strict=True):
                    parts.append(time_DNN[d, first, first + count])
                    first += count
                least = min(least, sum(parts) if objective == "latency" else max(parts))
        best.append(float(least))
    return best


def chains_by_subsets(time_DNN: np.ndarray, hop_DD: np.ndarray, device_class: list[int], objective: str) -> list[float]:
    """The dynamic program over subsets of single devices, as UELLM's text has it, with bits for devices."""
    layers, devices = time_DNN.shape[1] - 1, len(device_class)
    join = (lambda *x: sum(x)) if objective == "latency" else max
    value: dict[tuple[int, int, int], float] = {
        (1 << k, k, j): float(time_DNN[device_class[k], 0, j]) for k in range(devices) for j in range(1, layers + 1)
    }
    for subset in range(1, 1 << devices):
        for k in range(devices):
            if not subset >> k & 1:
                continue
            for i in range(1, layers):
                here = value.get((subset, k, i), math.inf)
                if math.isinf(here):
                    continue
                for to in range(devices):
                    if subset >> to & 1:
                        continue
                    hop = float(hop_DD[device_class[k], device_class[to]])
                    for j in range(i + 1, layers + 1):
                        key = subset | 1 << to, to, j
                        total = join(here, hop, float(time_DNN[device_class[to], i, j]))
                        value[key] = min(value.get(key, math.inf), total)
    best = [math.inf] * min(devices, layers)
    for (subset, _, j), total in value.items():
        if j == layers and subset.bit_count() <= len(best):
            best[subset.bit_count() - 1] = min(best[subset.bit_count() - 1], total)
    return best


def latency_by_cp_sat(
    layer_D: np.ndarray,
    most_D: np.ndarray,
    hop_DD: np.ndarray,
    device_class: list[int],
    layers: int,
    *,
    device_weight: int,
    objective: str,
) -> int:
    """Least ``value + device_weight * devices`` for equal layers and whole numbers, as a circuit over devices."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    n = len(device_class)
    used = [model.new_bool_var("") for _ in range(n)]
    held = [model.new_int_var(0, layers, "") for _ in range(n)]
    model.add(sum(held) == layers)
    for k, d in enumerate(device_class):
        model.add(held[k] >= 1).only_enforce_if(used[k])
        model.add(held[k] <= int(most_D[d])).only_enforce_if(used[k])
        model.add(held[k] == 0).only_enforce_if(~used[k])
    arcs, hops = [], []
    for a in range(n):  # node n is where the chain begins and ends
        arcs += [(n, a, model.new_bool_var("")), (a, n, model.new_bool_var("")), (a, a, ~used[a])]
        for b in range(n):
            if a != b:
                arc = model.new_bool_var("")
                arcs.append((a, b, arc))
                hops.append((arc, int(hop_DD[device_class[a], device_class[b]])))
    model.add_circuit(arcs)
    work = [int(layer_D[d]) * held[k] for k, d in enumerate(device_class)]
    if objective == "latency":
        value = sum(work) + sum(arc * hop for arc, hop in hops)
    else:
        value = model.new_int_var(0, 10**9, "")
        for part in work:
            model.add(value >= part)
        for arc, hop in hops:
            model.add(value >= hop).only_enforce_if(arc)
    model.minimize(value + device_weight * sum(used))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = 120
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)
