"""Requests: traces, fixed lengths and length distributions, and what is promised to them."""

from __future__ import annotations

from planner.workload.layouts import LAYOUTS
from planner.workload.spec import QUANTILE_LEVELS, LengthDistribution, Slo, Workload
from planner.workload.synthetic import fixed_workload, lognormal_workload
from planner.workload.traces import Trace, TraceSource, list_traces, load_trace, trace_source

__all__ = [
    "LAYOUTS",
    "QUANTILE_LEVELS",
    "LengthDistribution",
    "Slo",
    "Trace",
    "TraceSource",
    "Workload",
    "fixed_workload",
    "list_traces",
    "load_trace",
    "lognormal_workload",
    "trace_source",
]
