"""Timelines as trace, picture and table."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import numpy as np
import pytest

from planner.cost.training import TrainingPrediction
from planner.plan import Schedule
from planner.report.plots import plot_timeline
from planner.report.timeline import apart_in_words
from planner.report.trace_events import trace_events
from planner.simulate import TrainingTimeline, timeline_of


def made(stages: int = 3, microbatches: int = 6, *, hop: float = 0.01, slow: float = 1.0) -> TrainingTimeline:
    """Stages of a second forward and two backward, the first `slow` times slower."""
    pace_S = np.array([slow, *[1.0] * (stages - 1)])
    hop_S = np.array([*[2.0 * hop] * (stages - 1), 0.0])
    work_S, update_S = 3.0 * pace_S, np.full(stages, 0.5)
    cycle_S = work_S + hop_S
    prediction = TrainingPrediction(
        iteration_time=float((microbatches - 1) * cycle_S.max() + cycle_S.sum() + 0.5 + 0.25 + 0.125),
        work_S=work_S,
        hop_S=hop_S,
        update_S=update_S,
        forward_S=pace_S,
        sync_S=np.full(stages, 0.2),
        tied=0.25,
        memory_S=(),
        limit_S=(),
        breakdown=None,  # type: ignore[arg-type]
        figures={},
    )
    schedule = Schedule(microbatch_size=1, microbatches=microbatches, recompute="none", sequence_parallel=False)
    return timeline_of(prediction, schedule, [1] * stages)


NAMES = ["stage 0", "stage 1", "stage 2"]


def test_trace_holds_every_slice_and_no_overlap() -> None:
    timeline = made(hop=1.7)  # longer than a pass: transfers overlap
    text = trace_events(timeline, NAMES, "title")
    assert text == trace_events(made(hop=1.7), NAMES, "title")
    trace = json.loads(text)
    assert trace["otherData"]["iteration_seconds"] == timeline.seconds
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == len(timeline.passes.events) + len(timeline.hops) + len(timeline.tails)
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in slices:
        tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in tracks.values():
        assert all(b[0] >= a[1] - 1e-3 for a, b in pairwise(sorted(spans)))
    assert len(tracks) > 6  # a stage sends on several tracks
    assert max(end for spans in tracks.values() for _, end in spans) == pytest.approx(timeline.seconds * 1e6)
    named = {event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"}
    assert named == set(NAMES)


@pytest.mark.parametrize(("stages", "microbatches", "panels"), [(3, 6, 1), (3, 200, 2), (40, 300, 2)])
def test_picture(stages: int, microbatches: int, panels: int) -> None:
    timeline = made(stages, microbatches)
    figure = plot_timeline(timeline, [f"stage {s}" for s in range(stages)], "a model on a cluster")
    assert len(figure.axes) == panels
    title = figure.get_suptitle()
    assert f"{timeline.bubble_fraction:.1%}".replace("%", " %") in title
    assert f"{microbatches} microbatches" in title
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert 0 < len(labels) <= 24 and labels[0] == "stage 0"
    assert figure.axes[-1].get_xlim()[1] == timeline.seconds
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def test_words_name_what_lies_between() -> None:
    assert "the same within 1 %" in apart_in_words(made(microbatches=60, hop=0.0))
    uneven = apart_in_words(made(slow=3.0, hop=0.0))
    assert "fill and drain meanwhile" in uneven and "transfers" not in uneven
    assert "transfers run beside passes" in apart_in_words(made(hop=0.5))
