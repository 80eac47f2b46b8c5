"""Replicas by role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.cost.prediction import PlacedStage
    from planner.plan.spec import Role

__all__ = ["PlacedReplica", "PlacedRoute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedReplica:
    """Stages of a replica on named GPUs, and what it does of a request."""

    stages: Sequence[PlacedStage]
    role: Role = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRoute:
    """Requests that one replica prefills and another decodes: positions, and share of the model's requests."""

    prefill: int
    decode: int
    share: float
