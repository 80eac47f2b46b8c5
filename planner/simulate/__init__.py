"""What a plan does over time, event by event."""

from __future__ import annotations

from planner.simulate.pipeline import SCHEDULES, Event, Timeline, simulate_pipeline
from planner.simulate.training import Apart, Hop, Tail, TrainingTimeline, plan_timeline, timeline_of

__all__ = [
    "SCHEDULES",
    "Apart",
    "Event",
    "Hop",
    "Tail",
    "Timeline",
    "TrainingTimeline",
    "plan_timeline",
    "simulate_pipeline",
    "timeline_of",
]
