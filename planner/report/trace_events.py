"""A timeline as a trace that Perfetto and chrome://tracing open: the JSON Trace Event Format.

A process for each stage. Its first track is what the stage computes: forward and backward passes, gradient sync,
optimizer. What it sends is on further tracks, as many as there are transfers on their way at once. Times are
microseconds with three decimals; the same timeline gives the same bytes.

References
----------
"Trace Event Format", Google, 2016.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.simulate import Hop, TrainingTimeline

__all__ = ["trace_events"]


def trace_events(timeline: TrainingTimeline, names_S: Sequence[str], title: str = "") -> str:
    """Write a timeline as trace events.

    Parameters
    ----------
    timeline
        One iteration.
    names_S
        What each stage is called.
    title
        Of the whole.

    Returns
    -------
    str
        JSON, an event a line.
    """
    events: list[dict[str, Any]] = []
    for s, name in enumerate(names_S):
        lanes = _lanes([hop for hop in timeline.hops if hop.stage == s])
        events += [
            {"ph": "M", "name": "process_name", "pid": s, "tid": 0, "args": {"name": name}},
            {"ph": "M", "name": "process_sort_index", "pid": s, "tid": 0, "args": {"sort_index": s}},
            _track(s, 0, "computes"),
        ]
        for event in timeline.passes.events:
            if event.stage == s:
                chunk = {"chunk": event.chunk} if timeline.chunks > 1 else {}
                details: dict[str, Any] = {"microbatch": event.microbatch, **chunk}
                events.append(_slice(f"{event.kind} {event.microbatch}", event.kind, s, 0, event, details))
        events += [_slice(tail.kind, tail.kind, s, 0, tail, {}) for tail in timeline.tails if tail.stage == s]
        for number, lane in enumerate(lanes, start=1):
            events.append(_track(s, number, "sends" if len(lanes) == 1 else f"sends ({number})"))
            for hop in lane:
                what = "activations" if hop.kind == "forward" else "gradients"
                details = {"microbatch": hop.microbatch, "to": names_S[hop.to]}
                events.append(_slice(f"{what} {hop.microbatch} to stage {hop.to}", "hop", s, number, hop, details))
    lines = ",\n".join(json.dumps(event, ensure_ascii=False) for event in events)
    other = json.dumps(
        {
            "title": title,
            "schedule": timeline.schedule,
            "iteration_seconds": timeline.seconds,
            "closed_form_seconds": timeline.closed_form,
            "bubble_fraction": timeline.bubble_fraction,
        },
        ensure_ascii=False,
    )
    return f'{{"displayTimeUnit": "ms", "otherData": {other}, "traceEvents": [\n{lines}\n]}}\n'


def _track(pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}


def _slice(name: str, category: str, pid: int, tid: int, span: Any, details: dict[str, Any]) -> dict[str, Any]:
    start, end = round(span.start * 1e6, 3), round(span.end * 1e6, 3)
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": pid,
        "tid": tid,
        "ts": start,
        "dur": round(end - start, 3),
        "args": details,
    }


def _lanes(hops: Sequence[Hop]) -> list[list[Hop]]:
    """Share transfers among tracks so that none overlaps another on its own."""
    lanes: list[list[Hop]] = []
    for hop in sorted(hops, key=lambda one: (one.start, one.end, one.kind, one.microbatch)):
        lane = next((lane for lane in lanes if lane[-1].end <= hop.start), None)
        if lane is None:
            lanes.append([hop])
        else:
            lane.append(hop)
    return lanes
