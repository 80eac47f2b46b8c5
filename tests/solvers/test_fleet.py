"""The master program of several clients and roles: against brute force with a linear program for the flows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.solvers.cbc import solve_cbc
from planner.solvers.either import solve_either
from planner.solvers.fleet import FleetMaster, FleetSolution
from planner.solvers.fleet_columns import DECODE, PREFILL, WHOLE, FleetColumns, FleetDemand, FleetLink
from planner.solvers.gscip import solve_gscip
from planner.solvers.highs import solve_highs
from planner.solvers.master import MasterProblem

REACH = {1: ((0,),), 2: ((0,), (1,), (0, 1))}  # places that first parts may be handed on to, by classes
OBJECTIVES = ("scale", "goodput", "cost")


MOST_CHOICES = 150


def draw(seed: int) -> tuple[FleetColumns, FleetDemand, NDArray[np.float64]]:
    """Templates of one or two clients on one or two classes of bins, few enough to go through all numbers of copies."""
    for attempt in itertools.count():
        drawn = _draw(seed, attempt)
        if len(choices(drawn[0])) <= MOST_CHOICES:
            return drawn
    raise AssertionError


def choices(columns: FleetColumns) -> list[NDArray[np.int64]]:
    """All numbers of copies that fit the room."""
    room_C = columns.room.bin_size_C * columns.room.bins_C
    found = [np.zeros(0, dtype=int)]
    need_TC = columns.room.need_TC
    for t in range(len(need_TC)):
        longer = []
        for copies in found:
            left_C = room_C - copies @ need_TC[:t]
            most = int((left_C // np.maximum(need_TC[t], 1))[need_TC[t] > 0].min())
            longer += [np.append(copies, n) for n in range(most + 1)]
        found = longer
        if len(found) > 20 * MOST_CHOICES:
            break
    return found


def _draw(seed: int, attempt: int) -> tuple[FleetColumns, FleetDemand, NDArray[np.float64]]:
    random = np.random.default_rng([seed, attempt])
    classes = int(random.integers(1, 3))
    bins = [(2, int(random.integers(1, 3))), (1, int(random.integers(1, 3)))][:classes]
    clients = int(random.integers(1, 3))
    rows: list[tuple[int, int, int, int, int]] = []  # client, role, from, to, need's class
    needs, values = [], []
    for client in range(clients):
        for _ in range(int(random.integers(1, 3))):
            rows.append((client, WHOLE, -1, -1, 0))
            needs.append(random.integers(0, 3, size=classes))
            values.append(random.uniform(1, 5))
        for source, target in itertools.product(range(classes), range(len(REACH[classes]))):
            if random.random() < 0.5:
                rows.append((client, PREFILL, source, target, source))
                needs.append(np.eye(classes, dtype=int)[source])
                values.append(random.uniform(2, 9))
        for target in range(classes):
            if random.random() < 0.8:
                rows.append((client, DECODE, -1, target, target))
                needs.append(np.eye(classes, dtype=int)[target] * int(random.integers(1, 3)))
                values.append(random.uniform(2, 9))
    need_TC = np.array(needs)
    need_TC[need_TC.sum(axis=1) == 0, 0] = 1
    columns = FleetColumns(
        room=MasterProblem(
            value_T=np.array(values),
            cost_T=need_TC @ np.arange(1.0, classes + 1),
            chunks_TJ=need_TC,
            class_J=np.arange(classes),
            size_J=np.ones(classes, dtype=int),
            bin_size_C=np.array([size for size, _ in bins]),
            bins_C=np.array([count for _, count in bins]),
        ),
        client_T=np.array([row[0] for row in rows]),
        role_T=np.array([row[1] for row in rows]),
        from_T=np.array([row[2] for row in rows]),
        to_T=np.array([row[3] for row in rows]),
        reach=REACH[classes],
    )
    link = FleetLink(pairings=frozenset({(0, 1), (1, 0)}), capacity=float(random.uniform(1, 8)))
    demand = FleetDemand(
        objective=OBJECTIVES[seed % 3],  # type: ignore[arg-type]
        demand_A=random.uniform(1, 6, size=clients),
        weight_A=random.uniform(0.5, 2, size=clients),
        bytes_A=random.uniform(0.5, 2, size=clients),
        links=(link,) if classes > 1 else (),
    )
    return columns, demand, np.array(values)


def brute_force(columns: FleetColumns, demand: FleetDemand, value_T: NDArray[np.float64]) -> float | None:
    """Best objective over all numbers of copies, each with the best flows by a linear program of its own."""
    best: float | None = None
    for copies_T in choices(columns):
        found = flows(columns, demand, value_T * copies_T)
        if found is None:
            continue
        value = -float(columns.room.cost_T @ copies_T) if demand.objective == "cost" else found
        best = value if best is None else max(best, value)
    return best


def flows(columns: FleetColumns, demand: FleetDemand, done_T: NDArray[np.float64]) -> float | None:
    """Greatest scale or weighted goodput of what templates do, or 0 if the demand is met; None if it is not."""
    from scipy.optimize import linprog

    clients = len(demand.demand_A)
    of = (columns.client_T, columns.role_T, columns.from_T, columns.to_T)
    first: dict[tuple[int, int, int], float] = {}
    taken: dict[tuple[int, int], float] = {}
    whole_A = np.zeros(clients)
    for a, role, source, target, done in zip(*of, done_T, strict=True):
        if role == WHOLE:
            whole_A[a] += done
        elif role == PREFILL:
            first[a, source, target] = first.get((a, source, target), 0.0) + done
        else:
            taken[a, target] = taken.get((a, target), 0.0) + done
    keys = [(a, z, w, g) for a, z, g in sorted(first) for w in columns.reach[g]]
    scale = demand.objective == "scale"
    size = len(keys) + (1 if scale else clients)
    rows, limits = [], []
    for sender in sorted(first):
        rows.append([1.0 if (k[0], k[1], k[3]) == sender else 0.0 for k in keys] + [0.0] * (size - len(keys)))
        limits.append(first[sender])
    for a, target in sorted({(k[0], k[2]) for k in keys}):
        rows.append([1.0 if (k[0], k[2]) == (a, target) else 0.0 for k in keys] + [0.0] * (size - len(keys)))
        limits.append(taken.get((a, target), 0.0))
    for link in demand.links:
        rows.append(
            [float(demand.bytes_A[k[0]]) if (k[1], k[2]) in link.pairings else 0.0 for k in keys]
            + [0.0] * (size - len(keys))
        )
        limits.append(link.capacity)
    for a in range(clients):
        last = [float(demand.demand_A[a])] if scale else [1.0 if b == a else 0.0 for b in range(clients)]
        rows.append([-1.0 if k[0] == a else 0.0 for k in keys] + last)
        limits.append(float(whole_A[a]))
    ends: list[tuple[float, float | None]] = [(0.0, None) for _ in keys]
    if scale:
        gain, ends = np.array([0.0] * len(keys) + [1.0]), [*ends, (0.0, None)]
    else:
        asked = [(0.0, float(d)) for d in demand.demand_A]
        if demand.objective == "cost":
            asked = [(float(d), float(d)) for d in demand.demand_A]
        gain, ends = np.array([0.0] * len(keys) + list(demand.weight_A)), [*ends, *asked]
    answer = linprog(-gain, A_ub=np.array(rows), b_ub=np.array(limits), bounds=ends)
    if answer.status == 2:
        return None
    assert answer.status == 0
    return float(-answer.fun)


def value_of(master: FleetMaster, solution: FleetSolution) -> float:
    reached = master.objective_of(solution.served_A, solution.copies_T)
    return -reached if master.demand.objective == "cost" else reached


@pytest.mark.parametrize("seed", range(60))
def test_equals_brute_force(seed: int) -> None:
    """Copies, flows, links and clients: the same optimum, and a bound that is no better."""
    columns, demand, value_T = draw(seed)
    expected = brute_force(columns, demand, value_T)
    master = FleetMaster(columns, demand, value_T)
    found = master.best(value_T, time_limit=20.0)
    if expected is None or (expected == 0.0 and demand.objective != "cost"):
        assert found is None or value_of(master, found) == pytest.approx(0.0, abs=1e-6)
        return
    assert found is not None
    assert value_of(master, found) == pytest.approx(expected, rel=1e-5)
    bound = master.bound_of(found.bound)
    assert (-bound if demand.objective == "cost" else bound) >= expected - 1e-6 * abs(expected) - 1e-9
    # the relaxation by columns is the linear program of all of them
    relaxed = master.relax(value_T, np.array([0]))
    assert relaxed is not None and relaxed.value >= found.value - 1e-6 * abs(found.value)


@pytest.mark.parametrize("seed", range(0, 60, 6))
def test_solvers_agree(seed: int) -> None:
    """SCIP, HiGHS and CBC, and the two together."""
    columns, demand, value_T = draw(seed)
    master = FleetMaster(columns, demand, value_T)
    chosen = np.flatnonzero(master.able_T)
    program = master.program(value_T, chosen)
    answers = [solver(program, 20.0, 0) for solver in (solve_gscip, solve_highs, solve_cbc, solve_either)]
    if answers[0] is None:
        assert answers == [None] * 4
        return
    for answer in answers:
        assert answer is not None
        assert answer.value == pytest.approx(answers[0].value, rel=1e-6, abs=1e-6)


def test_a_gap_that_is_allowed_is_told() -> None:
    """A solver that may stop early still gives a bound that holds."""
    columns, demand, value_T = draw(3)
    master = FleetMaster(columns, demand, value_T)
    exact = master.best(value_T, time_limit=20.0)
    loose = master.best(value_T, time_limit=20.0, close=0.5)
    assert exact is not None and loose is not None
    assert loose.value <= exact.value + 1e-9 <= loose.bound + 1e-6


def test_flows_need_somebody_who_takes_over() -> None:
    """First parts for a place where nothing is taken over are worth nothing."""
    columns, demand, value_T = draw(0)
    none = FleetColumns(
        room=columns.room,
        client_T=columns.client_T,
        role_T=np.where(columns.role_T == DECODE, PREFILL, columns.role_T),
        from_T=columns.to_T,
        to_T=np.where(columns.role_T == WHOLE, -1, 0),
        reach=columns.reach,
    )
    master = FleetMaster(none, demand, value_T)
    assert not master.pairings
    assert not master.able_T[none.role_T == PREFILL].any()
