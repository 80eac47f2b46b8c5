"""Layers that stages of each kind compute in a time, and that their memory holds: what capacity bounds are made of.

Where layers are alike, they count one each. Where they are not, layers count by the time they take on average over the
kinds, and a kind's numbers are what its best-suited layers make.

Legend: J stage kind, K layer kind, L layer, S stages, G decode batch of the grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.memory import cached_tokens_L
from planner.cost.serving import Iteration
from planner.search.template_rows import WHOLE, StageCaps

if TYPE_CHECKING:
    from collections.abc import Callable

    from planner.cost._types import Array, IntArray
    from planner.search.template_tables import TemplateTables

__all__ = ["CapacityTables"]

_KINDS: Final[tuple[Iteration, ...]] = ("mean", "chunk", "full")


class CapacityTables:
    """Capacities of the stage kinds of one problem.

    Parameters
    ----------
    tables
        Times, memory and links of the stage kinds.
    most_stages
        Most stages of any multiset.
    """

    def __init__(self, tables: TemplateTables, most_stages: int) -> None:
        self.tables, self.layers = tables, tables.model.num_layers
        kind_L = tables.kind_of_layer
        layers_K = np.bincount(kind_L, minlength=len(tables.model.kinds))
        weights_JL, cache_JL = tables.weights_JL, tables.cache_JL
        times = tables.least
        self.overhead = tables.iteration
        self.whole = len(layers_K) == 1 and bool((weights_JL == weights_JL[:, :1]).all())
        self.density_JG: dict[Iteration, Array] = {}
        self.shortest_JG: dict[Iteration, Array] = {}
        unit_KG: dict[Iteration, Array] = {}
        for which in _KINDS:
            layer_JKG = times.layer_JKG[which]
            unit = layer_JKG.mean(axis=0)
            unit_KG[which] = unit * self.layers / (layers_K @ unit)
            self.density_JG[which] = (unit_KG[which] / layer_JKG).max(axis=1)
            self.shortest_JG[which] = layer_JKG.min(axis=1)
        self._runs_of_layers: tuple[Array, Array] | None = None
        if not self.whole:
            least_JGN = np.moveaxis(_in_a_row(times.layer_JKG["mean"][:, kind_L], np.min), 1, 2)
            counts_GN = _in_a_row(unit_KG["mean"][kind_L][None], np.max)[0].T
            self._runs_of_layers = least_JGN, np.pad(counts_GN, ((0, 0), (1, 0)))
        self.first_JG, self.last_JG = times.first_JG, times.last_JG
        # in layers that the first and the last stage do not compute meanwhile
        self.ends_JG = {
            w: (self.density_JG[w] * self.first_JG[w], self.density_JG[w] * self.last_JG[w]) for w in _KINDS
        }
        J, G = len(weights_JL), len(tables.grid_G)
        room_J = {
            "middle": tables.capacity_J,
            "first": tables.capacity_J - tables.embedding_J,
            "last": tables.capacity_J - tables.head_J,
            "both": tables.capacity_J
            - tables.embedding_J
            - (0.0 if tables.model.tied_embeddings else 1.0) * tables.head_J,
        }
        demand = tables.demand
        self._held = {name: np.zeros((most_stages + 1, J, G)) for name in room_J}  # in units of time
        self.sized = {name: np.zeros((most_stages + 1, J, G)) for name in room_J}  # in units of memory
        for stages in range(1, most_stages + 1):
            tokens_GL = cached_tokens_L(tables.model, stages * tables.grid_G, demand.decode_context, demand.longest)
            bytes_JGL = weights_JL[:, None, :] + cache_JL[:, None, :] * tokens_GL
            unit_GL = bytes_JGL.mean(axis=0)
            unit_GL = unit_GL * self.layers / unit_GL.sum(axis=1, keepdims=True)
            by_size_JG = (unit_GL / bytes_JGL).max(axis=2)
            by_time_JG = (unit_KG["mean"].T[:, kind_L] / bytes_JGL).max(axis=2)
            one_JG = bytes_JGL.min(axis=2)
            run_JNG = np.zeros(0) if self.whole else _in_a_row(np.moveaxis(bytes_JGL, 2, 1), np.min)
            for name, room in room_J.items():
                held, sized = room[:, None] * by_time_JG, room[:, None] * by_size_JG
                if self._runs_of_layers is not None:
                    layers_JG = (run_JNG <= room[:, None, None] * (1 + WHOLE)).sum(axis=1)
                    held = np.minimum(held, self._runs_of_layers[1][np.arange(G), layers_JG])
                if self.whole:
                    held, sized = np.floor(held + WHOLE), np.floor(sized + WHOLE)
                none = room[:, None] < one_JG  # not even one layer
                self._held[name][stages] = np.where(none, 0.0, held)
                self.sized[name][stages] = np.where(none, 0.0, sized)

    def caps(self, kind: IntArray, at: IntArray, stages: IntArray, *, memory: bool = True) -> StageCaps:
        """Caps of stages at a decode batch; all arguments broadcast."""
        density = self.density_JG["mean"][kind, at]
        names = ("middle", "first", "last", "both")
        held = [self._held[name][stages, kind, at] for name in names] if memory else [None] * len(names)
        first, last = (ends[kind, at] for ends in self.ends_JG["mean"])
        runs = None
        if self._runs_of_layers is not None:
            least_JGN, counts_GN = self._runs_of_layers
            shape = np.broadcast_shapes(np.shape(kind), np.shape(at))
            runs = least_JGN[kind, at], np.broadcast_to(counts_GN[at], (*shape, counts_GN.shape[-1]))
        return StageCaps(density, first, last, (held[0], held[1], held[2], held[3]), self.whole, runs)


def _in_a_row(cost_JLG: Array, choose: Callable[..., Array]) -> Array:
    """Least or greatest cost of 1, 2 and more layers in a row, axes J, N, G."""
    before = np.pad(np.cumsum(cost_JLG, axis=1), ((0, 0), (1, 0), (0, 0)))
    layers = cost_JLG.shape[1]
    return np.stack([choose(before[:, n:] - before[:, :-n], axis=1) for n in range(1, layers + 1)], axis=1)
