"""Measuring this machine with torch: what its operators take, as tables and as a device profile."""

from __future__ import annotations

from planner.profiling.measure.families import FAMILIES
from planner.profiling.measure.run import Measured, Options, measure

__all__ = ["FAMILIES", "Measured", "Options", "measure"]
