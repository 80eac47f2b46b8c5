"""What a plan does over time, event by event."""

from __future__ import annotations

from planner.simulate.pipeline import SCHEDULES, Event, Timeline, simulate_pipeline

__all__ = ["SCHEDULES", "Event", "Timeline", "simulate_pipeline"]
