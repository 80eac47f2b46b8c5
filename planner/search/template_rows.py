"""Multisets of stages with equally many kinds as arrays, and the layers that their stages hold at most.

Legend: M multiset, D place of a kind in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.search.template_tables import TemplateTables

__all__ = ["WHOLE", "MultisetRows", "StageCaps"]

WHOLE: Final = 1e-9  # a number of layers this close below a whole one is that


@dataclass(frozen=True, slots=True)
class StageCaps:
    """Layers that stages hold at a stage time: by their speed, and by their memory where that counts.

    Parameters
    ----------
    density
        Layers per second.
    first, last
        Layers that the work of the first and of the last stage takes the time of.
    held
        Layers in the memory of a middle stage, a first, a last, and one that is both; None: no limit.
    whole
        Whether only whole layers count.
    runs
        Where layers are not alike: least seconds of so many layers in a row on each stage, one layer first, and what
        so many count for at most, none first.
    """

    density: Array
    first: Array
    last: Array
    held: tuple[Array | None, Array | None, Array | None, Array | None]
    whole: bool
    runs: tuple[Array, Array] | None = None

    def at(self, room: Array, place: int) -> Array:
        """Layers in so many seconds, in place 0 (middle), 1 (first), 2 (last) or 3 (both)."""
        fits = self.density * room
        if place & 1:
            fits = fits - self.first
        if place & 2:
            fits = fits - self.last
        if self.whole:
            fits = np.floor(fits + WHOLE)
        elif self.runs is not None:
            least, counts = self.runs
            layers = (least <= (fits / self.density * (1 + WHOLE))[..., None]).sum(axis=-1)
            fits = np.minimum(fits, np.take_along_axis(counts, layers[..., None], axis=-1)[..., 0])
        held = self.held[place]
        return np.maximum(fits if held is None else np.minimum(fits, held), 0.0)

    def take(self, rows: IntArray) -> StageCaps:
        """Some of the stages."""
        held = [None if h is None else h[rows] for h in self.held]
        runs = None if self.runs is None else (self.runs[0][rows], self.runs[1][rows])
        return StageCaps(
            self.density[rows],
            self.first[rows],
            self.last[rows],
            (held[0], held[1], held[2], held[3]),
            self.whole,
            runs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MultisetRows:
    """Multisets with the least that their links cost, and the places of first and last kind where they are known."""

    kind: IntArray
    count: IntArray
    stages: IntArray
    per_byte: Array
    latency: Array
    back: Array
    slowest_link: Array
    first: IntArray | None = None
    last: IntArray | None = None

    @classmethod
    def of(cls, tables: TemplateTables, kind_MD: IntArray, count_MD: IntArray) -> MultisetRows:
        """Find the least that the links of multisets cost."""
        there, kind = kind_MD >= 0, np.maximum(kind_MD, 0)
        inside, across = tables.inside_J, tables.across_JJ
        tp, size = tables.tp_J[kind], tables.node_size_J[kind]
        sums, slowest = [], np.zeros(len(kind))
        for part in (0, 1):  # latency, seconds per byte
            own = across[part][kind, kind]
            best = np.minimum(inside[part][kind], own)
            hops = np.maximum(count_MD - 1, 0)
            # stages of one kind change the node at least so often
            leaves = np.where(there, np.minimum(-(-count_MD * tp // size) - 1, hops), 0)
            total = (leaves * own + (hops - leaves) * best).sum(axis=1)
            worst = np.where(leaves > 0, own, np.where(hops > 0, best, 0.0)).max(axis=1)
            cross = np.full(len(kind), np.inf)
            for a in range(kind.shape[1]):
                for b in range(kind.shape[1]):
                    if a == b:
                        continue
                    pair = across[part][kind[:, a], kind[:, b]]
                    alike = tables.class_J[kind[:, a]] == tables.class_J[kind[:, b]]
                    pair = np.where(alike, np.minimum(pair, inside[part][kind[:, a]]), pair)
                    cross = np.minimum(cross, np.where(there[:, a] & there[:, b], pair, np.inf))
            crossings = np.maximum(there.sum(axis=1) - 1, 0)
            cross = np.where(crossings > 0, cross, 0.0)
            sums.append(total + crossings * cross)
            if part == 1:
                slowest = np.maximum(worst, cross)
        stages = count_MD.sum(axis=1)
        least_back = np.minimum(inside[0][kind], across[0][kind, kind])
        back = np.where(stages > 1, np.where(there, least_back, np.inf).min(axis=1), 0.0)
        several = there.sum(axis=1) > 1
        if several.any():  # the way back may lead between any two classes
            anyhow = min(float(inside[0].min()), float(across[0].min()))
            back = np.where(several, anyhow, back)
        return cls(
            kind=kind_MD,
            count=count_MD,
            stages=stages,
            per_byte=sums[1],
            latency=sums[0],
            back=back,
            slowest_link=slowest,
        )

    def take(self, rows: IntArray) -> MultisetRows:
        """Some of the multisets."""
        parts: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        some: dict[str, Any] = {name: None if part is None else part[rows] for name, part in parts.items()}
        return replace(self, **some)

    def of_first(self, values: Array) -> Array:
        """Values of the first stage's kind; the least where it is not known."""
        return _picked(values, self.first)

    def of_last(self, values: Array) -> Array:
        """Values of the last stage's kind; the least where it is not known."""
        return _picked(values, self.last)


def _picked(values: Array, place: IntArray | None) -> Array:
    if place is None:
        return np.asarray(values.min(axis=1))
    return np.asarray(values[np.arange(len(values)), place])
