"""The master program of several models and roles: whose copies share the bins, and how requests flow between them.

Knows nothing of models or GPUs, like `planner.solvers.master`, whose rows of room it uses. A template serves one
*client* (a model with its requests) in one of three roles: it serves requests whole, does their first part and hands
them on, or takes them over. First parts are done in one place and handed on to one of several others, its *reach*; a
*pairing* is what flows from one place with some reach to another. A place is whatever links are told apart by.

The unknowns are the copies of each template (whole), the flow of each client over each pairing and what each client is
served (continuous):

* ``served_a <= sum of whole r x + sum of flows of a``;
* all flows from a place with one reach are no more than what the first parts there do, and all flows into a place no
  more than is taken over there;
* over some pairings together no more bytes pass than their link carries.

The objective is the greatest common share of what is asked of all clients, the greatest weighted sum of what is served,
or the least cost that serves what is asked.

Legend: T template, A client, C class of bins, J chunk kind, Y pairing, R row, X unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.solvers.either import solve_either
from planner.solvers.fleet_columns import DECODE, PREFILL, WHOLE, FleetColumns, FleetDemand
from planner.solvers.gscip import solve_relaxation
from planner.solvers.master import Master
from planner.solvers.program import IntegerProgram, IntegerSolution, IntegerSolver

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FleetMaster", "FleetRelaxation", "FleetSolution"]

_TIE: Final = 1e-7  # of the objective: what breaks ties
_MORE_COLUMNS: Final = 60  # added at a time, of each client
_PRICED_OUT: Final = 1e-10  # of the objective; a column that would add less is not worth it


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSolution:
    """Copies, flows, and how good they provably are.

    Parameters
    ----------
    copies_T
        Whole numbers.
    flow_Y
        What flows over each pairing of `FleetMaster.pairings`.
    served_A
        Of each client.
    value
        In terms of the objective, ties included: comparable with `FleetRelaxation.value`.
    bound
        No choice of the columns asked for has a better value.
    proven
        Whether the solver closed the program.
    fills
        As of `planner.solvers.master.MasterSolution`.
    """

    copies_T: NDArray[np.int64]
    flow_Y: NDArray[np.float64]
    served_A: NDArray[np.float64]
    value: float
    bound: float
    proven: bool
    fills: dict[int, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRelaxation:
    """The program without whole numbers, over the whole pool.

    Parameters
    ----------
    value
        Of the objective; no choice in whole numbers has more.
    copies_T
        The choice.
    reduced_T
        What one copy of a template adds to it, at most.
    worth_T
        What one more unit that a template does would be worth.
    price_C
        What one more unit of room in each class of bins would add.
    active
        Templates to begin with when it is solved again with other values.
    """

    value: float
    copies_T: NDArray[np.float64]
    reduced_T: NDArray[np.float64]
    worth_T: NDArray[np.float64]
    price_C: NDArray[np.float64]
    active: NDArray[np.int64]


class FleetMaster:
    """The program over one pool of templates, whatever their values turn out to be.

    Parameters
    ----------
    columns
        The templates.
    demand
        What is asked for.
    largest_T
        A value that each template does not exceed, to say how much a tie may count.
    """

    def __init__(self, columns: FleetColumns, demand: FleetDemand, largest_T: NDArray[np.float64]) -> None:
        self.columns, self.demand = columns, demand
        self.room = Master(columns.room)
        self.most_T = self.room.most_T
        first, second = columns.role_T == PREFILL, columns.role_T == DECODE
        pairs = zip(columns.client_T[first], columns.from_T[first], columns.to_T[first], strict=True)
        senders = sorted({(int(a), int(z), int(g)) for a, z, g in pairs})
        taken = {(int(a), int(w)) for a, w in zip(columns.client_T[second], columns.to_T[second], strict=True)}
        # client, place, number of the reach, place that takes over
        self.pairings = tuple((a, z, g, w) for a, z, g in senders for w in columns.reach[g] if (a, w) in taken)
        self._senders = sorted({one[:3] for one in self.pairings})
        self._places = sorted(taken)
        self._clients = len(demand.demand_A)
        # rows behind those of the room: senders, places, clients, links
        rows = len(self.room.rows_RT)
        self._sender_row = {one: rows + i for i, one in enumerate(self._senders)}
        rows += len(self._senders)
        self._place_row = {one: rows + i for i, one in enumerate(self._places)}
        rows += len(self._places)
        self._client_row = rows
        self._link_row = rows + self._clients
        self._rows = self._link_row + len(demand.links)
        self._row_T = np.array([self._row_of(t) for t in range(len(columns.role_T))], dtype=np.int64)
        self.able_T = (self.most_T > 0) & (self._row_T >= 0)
        self._reference = self._largest_objective(largest_T)
        whole_cost = float(columns.room.cost_T.max(initial=0.0)) * float(
            (columns.room.bin_size_C * columns.room.bins_C).sum()
        )
        if demand.objective == "cost":
            self._cost_T = columns.room.cost_T * (1 + _TIE) + _TIE * float(columns.room.cost_T.max(initial=1.0)) / max(
                float(self.most_T.sum()), 1.0
            )
        else:
            self._cost_T = columns.room.cost_T * (_TIE * self._reference / whole_cost if whole_cost else 0.0)

    def _row_of(self, t: int) -> int:
        """Row that a template's value counts in; -1 where nobody takes over what it would hand on."""
        columns = self.columns
        client, role = int(columns.client_T[t]), int(columns.role_T[t])
        if role == WHOLE:
            return self._client_row + client
        if role == DECODE:
            return self._place_row[client, int(columns.to_T[t])]
        return self._sender_row.get((client, int(columns.from_T[t]), int(columns.to_T[t])), -1)

    def _largest_objective(self, largest_T: NDArray[np.float64]) -> float:
        """Size of the objective, for breaking ties: what the best template would do everywhere."""
        all_T = np.where(self.most_T > 0, largest_T, 0.0)
        if self.demand.objective == "goodput":
            return float((all_T * self.demand.weight_A[self.columns.client_T]).max(initial=0.0))
        finite = np.where(np.isfinite(self.demand.demand_A), self.demand.demand_A, 1.0)
        return float((all_T / finite[self.columns.client_T]).max(initial=0.0))

    def bound_of(self, gain: float) -> float:
        """Turn a bound on the program's objective into one on scale, goodput or cost."""
        if self.demand.objective != "cost":
            return gain + _TIE * self._reference
        return max(0.0, -gain / (1 + _TIE) - _TIE * float(self.columns.room.cost_T.max(initial=1.0)))

    def objective_of(self, served_A: NDArray[np.float64], copies_T: NDArray[np.int64]) -> float:
        """Scale, goodput or cost of a choice."""
        demand = self.demand
        if demand.objective == "cost":
            return float(self.columns.room.cost_T @ copies_T)
        if demand.objective == "goodput":
            return float(demand.weight_A @ np.minimum(served_A, demand.demand_A))
        return float((served_A / demand.demand_A).min())

    def _counted(self, value_T: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a copy counts for: under a fixed demand one that serves requests whole needs not reach beyond it."""
        if self.demand.objective != "cost":
            return value_T
        whole_T = self.columns.role_T == WHOLE
        return np.where(whole_T, np.minimum(value_T, self.demand.demand_A[self.columns.client_T]), value_T)

    def program(self, value_T: NDArray[np.float64], chosen: NDArray[np.int64]) -> IntegerProgram:
        """Write the program over some of the templates: copies, then patterns, flows, and what is served."""
        demand, room = self.demand, self.room
        T, W, Y = len(chosen), room.patterns_RW.shape[1], len(self.pairings)
        S = 1 if demand.objective == "scale" else self._clients
        rows_RX = np.zeros((self._rows, T + W + Y + S))
        limit_R = np.zeros(self._rows)
        base = len(room.rows_RT)
        rows_RX[:base, :T] = room.rows_RT[:, chosen]
        rows_RX[:base, T : T + W] = room.patterns_RW
        limit_R[:base] = room.limit_R
        rows_RX[self._row_T[chosen], np.arange(T)] -= self._counted(value_T)[chosen]
        for y, (client, source, group, target) in enumerate(self.pairings):
            rows_RX[self._sender_row[client, source, group], T + W + y] = 1.0
            rows_RX[self._place_row[client, target], T + W + y] = 1.0
            rows_RX[self._client_row + client, T + W + y] = -1.0
            for k, link in enumerate(demand.links):
                if (source, target) in link.pairings:
                    rows_RX[self._link_row + k, T + W + y] = demand.bytes_A[client] / link.capacity
        limit_R[self._link_row :] = 1.0
        gain_X, most_X = np.zeros(T + W + Y + S), np.full(T + W + Y + S, np.inf)
        gain_X[:T] = -self._cost_T[chosen]
        most_X[:T], most_X[T : T + W] = room.most_T[chosen], room.most_W
        clients = slice(self._client_row, self._client_row + self._clients)
        if demand.objective == "scale":
            rows_RX[clients, -1] = demand.demand_A
            gain_X[-1] = 1.0
        else:
            rows_RX[clients, T + W + Y :] = np.eye(self._clients)
            if demand.objective == "cost":
                limit_R[clients] = -demand.demand_A
                most_X[T + W + Y :] = 0.0
            else:
                gain_X[T + W + Y :] = demand.weight_A
                most_X[T + W + Y :] = demand.demand_A
        # a row of each client in units of what is asked of it, or of a template, so that all rows are alike in size
        scale_R = np.ones(self._rows)
        scale_R[base : self._link_row] = 1.0 / self._unit(value_T)
        return IntegerProgram(
            gain_X=gain_X,
            rows_RX=rows_RX * scale_R[:, None],
            limit_R=limit_R * scale_R,
            most_X=most_X,
            whole_X=np.arange(T + W + Y + S) < T + W,
        )

    def _unit(self, value_T: NDArray[np.float64]) -> NDArray[np.float64]:
        """Size of each of the rows of senders, places and clients: the greatest value of a template that counts."""
        unit_R = np.ones(self._link_row - len(self.room.rows_RT))
        on = self.able_T & (value_T > 0)
        found_R = np.zeros(self._rows)
        np.maximum.at(found_R, self._row_T[on], value_T[on])
        part = found_R[len(self.room.rows_RT) : self._link_row]
        return np.where(part > 0, part, unit_R)

    def relax(self, value_T: NDArray[np.float64], active: NDArray[np.int64]) -> FleetRelaxation | None:
        """Solve the program without whole numbers over the whole pool, by columns; None if it has no solution.

        Parameters
        ----------
        value_T
            Value of every template; those of 0 are left out.
        active
            Templates to begin with; those that are not `WHOLE` are all in it from the beginning.
        """
        able_T = self.able_T & (value_T > 0)
        active = np.union1d(active, np.flatnonzero(self.columns.role_T != WHOLE))
        reach_T = value_T * np.minimum(self.most_T, 1 << 40) * able_T
        active = np.union1d(active[able_T[active]], self._best_of_each(reach_T, able_T)).astype(np.int64)
        need_T = self.columns.room.need_TC.sum(axis=1)
        counted_T = self._counted(value_T)
        base = len(self.room.rows_RT)
        while True:
            if not len(active):
                return None
            program = self.program(value_T, active)
            answer = solve_relaxation(program)
            if answer is None:
                missing_T = able_T.copy()
                missing_T[active] = False
                if not missing_T.any():
                    return None
                # no prices: take what serves most for what it holds
                more = self._best_of_each(value_T / np.maximum(need_T, 1), missing_T, 4 * _MORE_COLUMNS)
                active = np.union1d(active, more)
                continue
            price_R = answer.price_R
            scaled_R = price_R.copy()
            scaled_R[base : self._link_row] /= self._unit(value_T)
            worth_T = np.where(self._row_T >= 0, scaled_R[np.maximum(self._row_T, 0)], 0.0)
            paid_T = price_R[:base] @ self.room.rows_RT
            reduced_T = np.where(able_T, worth_T * counted_T - self._cost_T - paid_T, -np.inf)
            outside_T = reduced_T.copy()
            outside_T[active] = -np.inf
            wanted_T = outside_T > _PRICED_OUT * max(abs(answer.value), 1e-12)
            if not wanted_T.any():
                copies_T = np.zeros(len(value_T))
                copies_T[active] = answer.x_X[: len(active)]
                return FleetRelaxation(
                    value=answer.value,
                    copies_T=copies_T,
                    reduced_T=reduced_T,
                    worth_T=worth_T,
                    price_C=self.room.class_prices(price_R),
                    active=active[np.argsort(-reduced_T[active], kind="stable")[: 4 * _MORE_COLUMNS]],
                )
            active = np.union1d(active, self._best_of_each(outside_T, wanted_T))

    def _best_of_each(
        self, score_T: NDArray[np.float64], among_T: NDArray[np.bool_], most: int = _MORE_COLUMNS
    ) -> NDArray[np.int64]:
        """Take the best templates of each client."""
        parts = [np.zeros(0, dtype=np.int64)]
        for client in range(self._clients):
            rows = np.flatnonzero(among_T & (self.columns.client_T == client))
            parts.append(rows[np.argsort(-score_T[rows], kind="stable")[:most]])
        return np.concatenate(parts)

    def best(
        self,
        value_T: NDArray[np.float64],
        *,
        time_limit: float,
        seed: int = 0,
        columns: NDArray[np.int64] | None = None,
        close: float = 0.0,
        solver: IntegerSolver | None = None,
    ) -> FleetSolution | None:
        """Solve the program in whole numbers over some templates (None: all); None if it has no solution.

        Parameters
        ----------
        value_T
            Value of every template; those of 0 are left out.
        time_limit, seed
            For the solver.
        columns
            Templates to choose from.
        close
            Relative distance of value and bound at which the solver may stop.
        solver
            None: SCIP, and HiGHS where that does not come close in time.
        """
        chosen = np.arange(len(value_T)) if columns is None else columns
        chosen = chosen[(value_T[chosen] > 0) & self.able_T[chosen]]
        if not len(chosen):
            return None
        program = self.program(value_T, chosen)
        answer = (
            solve_either(program, time_limit, seed, close=close)
            if solver is None
            else solver(program, time_limit, seed)
        )
        return None if answer is None else self._solution(answer, chosen, len(value_T))

    def of_copies(
        self,
        value_T: NDArray[np.float64],
        copies_T: NDArray[np.int64],
        fills: dict[int, tuple[tuple[int, ...], ...]],
    ) -> FleetSolution | None:
        """Find the best flows for some copies that fit, with other values; None if they do not serve what is asked."""
        chosen = np.flatnonzero((copies_T > 0) & (value_T > 0) & self.able_T)
        if not len(chosen):
            return None
        program = self.program(value_T, chosen)
        patterns = slice(len(chosen), len(chosen) + self.room.patterns_RW.shape[1])
        rows = slice(0, len(self.room.rows_RT))
        rows_RX, limit_R = program.rows_RX.copy(), program.limit_R.copy()
        rows_RX[rows], limit_R[rows] = 0.0, 0.0  # that they fit is known
        most_X = program.most_X.copy()
        most_X[: len(chosen)], most_X[patterns] = copies_T[chosen], 0.0
        gain_X = program.gain_X.copy()
        gain_X[: len(chosen)] = 0.0
        answer = solve_relaxation(replace(program, rows_RX=rows_RX, limit_R=limit_R, most_X=most_X, gain_X=gain_X))
        if answer is None:
            return None
        x_X = answer.x_X.copy()
        x_X[: len(chosen)] = copies_T[chosen]
        value = float(program.gain_X @ x_X)
        found = IntegerSolution(x_X=x_X, value=value, bound=math.inf, proven=False)
        return replace(self._solution(found, chosen, len(value_T)), fills=fills)

    def _solution(self, answer: IntegerSolution, chosen: NDArray[np.int64], size: int) -> FleetSolution:
        T, W, Y = len(chosen), self.room.patterns_RW.shape[1], len(self.pairings)
        copies_T = np.zeros(size, dtype=int)
        copies_T[chosen] = answer.x_X[:T].round().astype(int)
        served = answer.x_X[T + W + Y :]
        demand = self.demand
        served_A = served
        if demand.objective != "goodput":
            served_A = demand.demand_A * (float(served[0]) if demand.objective == "scale" else 1.0)
        return FleetSolution(
            copies_T=copies_T,
            flow_Y=answer.x_X[T + W : T + W + Y],
            served_A=np.asarray(served_A),
            value=answer.value,
            bound=answer.bound,
            proven=answer.proven,
            fills=self.room.fills_of(answer.x_X[T : T + W]),
        )
