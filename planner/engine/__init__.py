"""Engines: what each can run, what it does by default, and its overheads."""

from __future__ import annotations

from planner.engine.arguments import megatron_layout, serving_arguments, training_arguments
from planner.engine.capabilities import check_device, check_runnable, default_split
from planner.engine.memory import MemoryBudget, memory_budget
from planner.engine.registry import list_engines, load_engine
from planner.engine.spec import Count, EngineProfile, Figure, Overheads, ServingDefaults

__all__ = [
    "Count",
    "EngineProfile",
    "Figure",
    "MemoryBudget",
    "Overheads",
    "ServingDefaults",
    "check_device",
    "check_runnable",
    "default_split",
    "list_engines",
    "load_engine",
    "megatron_layout",
    "memory_budget",
    "serving_arguments",
    "training_arguments",
]
