"""Everything that a master program for several models may choose from: the pools of all models in one numbering.

Replicas that prefill and decode together come from one `PoolValues` per model, whose multisets are looked at more
closely only where the program rests on them. Replicas of one role (`planner.search.role_templates`) are few and priced
from the beginning.

Legend: T template of any model, A model, M multiset of one model, J stage kind of all models, C node class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.role_templates import RoleTemplates, reaches, role_templates
from planner.search.template_pool import enumerate_multisets, most_stages
from planner.search.template_pricer import TemplatePricer
from planner.search.template_values import PRICED, PoolValues
from planner.search.templates import StageKind, stage_kinds
from planner.solvers.fleet import FleetRelaxation
from planner.solvers.fleet_columns import WHOLE, FleetColumns
from planner.solvers.master import MasterProblem, packs_by_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.problem import FleetProblem

__all__ = ["FleetPool", "ModelPool"]

_LEAST_WORTH: Final = 1e-9  # of the dearest model's; cheaper requests are not told apart


@dataclass(frozen=True, slots=True)
class ModelPool:
    """Replicas of one model.

    Parameters
    ----------
    kinds
        Its stage kinds.
    pricer
        Of its templates.
    values
        Of replicas that prefill and decode together; None where there are to be none.
    apart
        Replicas of one role; None where there are to be none.
    depth
        Most stages.
    """

    kinds: Sequence[StageKind]
    pricer: TemplatePricer
    values: PoolValues | None
    apart: RoleTemplates | None
    depth: int

    @classmethod
    def of(cls, problem: FleetProblem, index: int, depth: int, most: int) -> ModelPool:
        """Enumerate what a model's replicas may be made of, up to a number of stages and of multisets."""
        alone = problem.alone(index, roles=problem.roles)
        kinds = stage_kinds(alone)
        pricer = TemplatePricer(alone, kinds)
        values = apart = None
        if problem.roles != "disaggregated":
            pool = enumerate_multisets(alone, kinds, depth, most=most)
            values = PoolValues(alone, kinds, pricer, pool, most_stages(alone, depth))
        if problem.roles != "colocated":
            apart = role_templates(alone, kinds, depth)
        return cls(kinds, pricer, values, apart, depth)

    @property
    def able(self) -> bool:
        """Whether anything may serve the model at all."""
        together = self.values is not None and bool((self.values.up_M > 0).any())
        return together or (self.apart is not None and self.apart.able)


class FleetPool:
    """All templates of all models.

    Parameters
    ----------
    problem
        What is to be served.
    models
        Pools in the order of the models.
    """

    def __init__(self, problem: FleetProblem, models: Sequence[ModelPool]) -> None:
        self.problem, self.models = problem, tuple(models)
        self.kinds: list[StageKind] = sorted(
            {kind for model in models for kind in model.kinds}, key=lambda kind: (kind.node_class, kind.tp)
        )
        position = {kind: j for j, kind in enumerate(self.kinds)}
        chunks: list[IntArray] = []
        client: list[IntArray] = []
        role: list[IntArray] = []
        source: list[IntArray] = []
        target: list[IntArray] = []
        self._whole: list[slice] = []
        self._apart: list[slice] = []
        end = 0
        for a, model in enumerate(models):
            own = [position[kind] for kind in model.kinds]
            parts = [np.zeros((0, len(own)), dtype=np.int64)]
            if model.values is not None:
                parts.append(model.values.pool.chunks_MJ(len(own)))
            self._whole.append(slice(end, end + len(parts[-1])))
            end += len(parts[-1])
            roles = [np.full(len(parts[-1]), WHOLE)]
            ends = [np.full((len(parts[-1]), 2), -1)]
            if model.apart is not None:
                parts.append(model.apart.chunks_TJ)
                roles.append(model.apart.role_T)
                ends.append(np.stack([model.apart.from_T, model.apart.to_T], axis=1))
                self._apart.append(slice(end, end + len(parts[-1])))
                end += len(parts[-1])
            else:
                self._apart.append(slice(end, end))
            rows = np.concatenate(parts)
            wide = np.zeros((len(rows), len(self.kinds)), dtype=np.int64)
            wide[:, own] = rows
            chunks.append(wide)
            client.append(np.full(len(rows), a))
            role.append(np.concatenate(roles))
            source.append(np.concatenate(ends)[:, 0])
            target.append(np.concatenate(ends)[:, 1])
        self.chunks_TJ = np.concatenate(chunks)
        self.client_T, self.role_T = np.concatenate(client), np.concatenate(role)
        self.from_T, self.to_T = np.concatenate(source), np.concatenate(target)
        self.up_T, self.rate_T = np.zeros(end), np.zeros(end)
        self.priced_T = np.ones(end, dtype=bool)
        classes = problem.cluster.classes
        self.need_TC = np.stack(
            [
                self.chunks_TJ[:, [j for j, kind in enumerate(self.kinds) if kind.node_class == c]]
                @ np.array([kind.tp for kind in self.kinds if kind.node_class == c], dtype=np.int64)
                for c in range(len(classes))
            ],
            axis=1,
        )
        self._by_sum = all(
            packs_by_sum([kind.tp for kind in self.kinds if kind.node_class == c], node_class.gpus_per_node)
            for c, node_class in enumerate(classes)
        )
        self.refresh()

    def refresh(self) -> None:
        """Take over what the pools of the models have found out."""
        for model, whole, apart in zip(self.models, self._whole, self._apart, strict=True):
            if model.values is not None:
                self.up_T[whole], self.rate_T[whole] = model.values.up_M, model.values.rate_M
                self.priced_T[whole] = model.values.level_M == PRICED
            if model.apart is not None:
                self.up_T[apart], self.rate_T[apart] = model.apart.bound_T, model.apart.rate_T

    def columns(self, cost_J: Array) -> FleetColumns:
        """Write the templates for the master program, a GPU group of each kind at its cost."""
        classes = self.problem.cluster.classes
        return FleetColumns(
            room=MasterProblem(
                value_T=self.up_T,
                cost_T=(self.chunks_TJ @ np.asarray(cost_J)).astype(float),
                chunks_TJ=self.chunks_TJ,
                class_J=np.array([kind.node_class for kind in self.kinds]),
                size_J=np.array([kind.tp for kind in self.kinds]),
                bin_size_C=np.array([c.gpus_per_node for c in classes]),
                bins_C=np.array([len(c.nodes) for c in classes]),
            ),
            client_T=self.client_T,
            role_T=self.role_T,
            from_T=self.from_T,
            to_T=self.to_T,
            reach=tuple(places for _, places in reaches(self.problem.cluster)),
        )

    def simple_T(self) -> BoolArray:
        """Templates with stages of one kind: those that every choice can begin with."""
        return np.asarray((self.chunks_TJ > 0).sum(axis=1) == 1)

    def tighten(self, rows: IntArray, relaxed: FleetRelaxation) -> bool:
        """Look one step closer at some templates; False where all of them are priced."""
        return self._closer(rows, relaxed, PoolValues.tighten)

    def look_closer(self, rows: IntArray, relaxed: FleetRelaxation) -> bool:
        """Bound some templates more tightly that are not yet, without pricing them; False where all are."""
        return self._closer(rows, relaxed, PoolValues.look_closer)

    def _closer(
        self,
        rows: IntArray,
        relaxed: FleetRelaxation,
        look: Callable[[PoolValues, IntArray, Array], bool],
    ) -> bool:
        closer = False
        greatest = float(relaxed.worth_T.max(initial=0.0))
        for model, whole in zip(self.models, self._whole, strict=True):
            mine = rows[(rows >= whole.start) & (rows < whole.stop)]
            mine = mine[~self.priced_T[mine]]
            if model.values is None or not mine.size:
                continue
            # in units of what they serve, as a model's own program has it
            worth = max(float(relaxed.worth_T[whole].max(initial=0.0)), _LEAST_WORTH * greatest, 1e-300)
            closer |= look(model.values, mine - whole.start, relaxed.reduced_T[whole] / worth)
        if closer:
            self.refresh()
        return closer

    def replaced(self, rows: IntArray, value_T: Array) -> BoolArray:
        """Which of some templates copies of another of them replace: no more GPUs anywhere, no less value.

        Only templates of replicas that prefill and decode, of one model, and only where GPUs alone decide what fits:
        where the TP degrees of a class divide each other and the node.
        """
        out = np.zeros(len(rows), dtype=bool)
        if not self._by_sum:
            return out
        for a in range(len(self.models)):
            mine = np.flatnonzero((self.role_T[rows] == WHOLE) & (self.client_T[rows] == a))
            need_MC, value_M = self.need_TC[rows[mine]], value_T[rows[mine]]
            for i in np.argsort(-value_M / np.maximum(need_MC.sum(axis=1), 1), kind="stable").tolist():
                if out[mine[i]]:  # whoever replaces it replaces what it would
                    continue
                used = need_MC[i] > 0
                copies_M = (need_MC[:, used] // need_MC[i, used]).min(axis=1)
                enough_M = copies_M * value_M[i] >= value_M * (1 - 1e-12)
                enough_M[i] = False
                out[mine[enough_M & (copies_M > 0)]] = True
        return out

    def whole_row(self, t: int) -> tuple[int, int]:
        """Model of a template that prefills and decodes, and its row in the model's pool."""
        a = int(self.client_T[t])
        return a, t - self._whole[a].start

    def apart_row(self, t: int) -> tuple[int, int]:
        """Model of a template of one role, and its row among those of the model."""
        a = int(self.client_T[t])
        return a, t - self._apart[a].start

    @property
    def looked_at(self) -> dict[str, int]:
        """What was looked at, and how closely, over all models."""
        total: dict[str, int] = {}
        for model in self.models:
            if model.values is not None:
                for name, count in model.values.looked_at.items():
                    total[name] = total.get(name, 0) + count
            if model.apart is not None:
                total["of one role"] = total.get("of one role", 0) + len(model.apart.rate_T)
        return total
