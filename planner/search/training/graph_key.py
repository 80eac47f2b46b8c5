"""What a stage graph of a training job is recognised by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.search.stage_classes import StageClasses

__all__ = ["GraphKey"]


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a graph fixes, as positions in `StageClasses`, and the kind of stage of each of its classes.

    Parameters
    ----------
    family
        Kinds of stage that the pipeline may use.
    degree, size, recompute
        Data-parallel degree, microbatch size, recomputation.
    virtual, depth, hop
        Model chunks of each stage; if they are several, how many stages there are, and seconds of the longest hop.
    kind_C, with_next_C
        Kind of each class, and whether it is in the node of the stage behind it; empty in an outline.
    stages
        What the positions are in.
    """

    family: tuple[int, ...]
    degree: int
    size: int
    recompute: int
    virtual: int = 1
    depth: int = 0
    hop: float = math.inf
    kind_C: tuple[int, ...] = ()
    with_next_C: tuple[bool, ...] = ()
    stages: StageClasses | None = field(default=None, compare=False)
