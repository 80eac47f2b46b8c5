"""Timelines of pipelines: what must hold for any, and the closed form of the cost model beside them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost.training import pipeline_time
from planner.cost.training_memory import microbatches_in_flight
from planner.errors import InputError
from planner.simulate import SCHEDULES, Timeline, simulate_pipeline

TIMES = st.floats(0.1, 4.0)


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[list[float], list[float], int, list[float], str, int]:
    """Unequal stages, some hops, any schedule."""
    stages = draw(st.integers(1, 5))
    schedule = draw(st.sampled_from(sorted(SCHEDULES)))
    chunks = draw(st.integers(1, 3)) if schedule == "interleaved" else 1
    microbatches = stages * draw(st.integers(1, 4)) if chunks > 1 else draw(st.integers(1, 12))
    forward = draw(st.lists(TIMES, min_size=stages, max_size=stages))
    backward = draw(st.lists(TIMES, min_size=stages, max_size=stages))
    hops = draw(st.lists(st.floats(0.0, 0.5), min_size=stages, max_size=stages))
    return forward, backward, microbatches, hops, schedule, chunks


def run(case: tuple[list[float], list[float], int, list[float], str, int], **other: object) -> Timeline:
    forward, backward, microbatches, hops, schedule, chunks = case
    asked = {"hop_S": hops, "schedule": schedule, "chunks": chunks} | other
    return simulate_pipeline(forward, backward, microbatches, **asked)  # type: ignore[arg-type]


@given(pipelines())
def test_every_pass_once_in_order_and_after_what_it_needs(
    case: tuple[list[float], list[float], int, list[float], str, int],
) -> None:
    forward, _, microbatches, hops, _, chunks = case
    stages = len(forward)
    timeline = run(case)
    ends = {(e.kind, e.microbatch, e.chunk * stages + e.stage): e for e in timeline.events}
    assert len(ends) == len(timeline.events) == 2 * microbatches * stages * chunks
    for s in range(stages):
        mine = [event for event in timeline.events if event.stage == s]
        assert all(b.start >= a.end for a, b in itertools.pairwise(mine))
    for (kind, microbatch, position), event in ends.items():
        if kind == "forward" and position:
            assert event.start >= ends["forward", microbatch, position - 1].end + hops[(position - 1) % stages]
        if kind == "backward":
            assert event.start >= ends["forward", microbatch, position].end
            if position + 1 < stages * chunks:
                assert event.start >= ends["backward", microbatch, position + 1].end + hops[position % stages]


@given(pipelines())
def test_never_faster_than_its_slowest_stage_or_one_microbatch(
    case: tuple[list[float], list[float], int, list[float], str, int],
) -> None:
    forward, backward, microbatches, *_ = case
    timeline = run(case)
    work = [f + b for f, b in zip(forward, backward, strict=True)]
    assert timeline.seconds >= microbatches * max(work) - 1e-9
    assert timeline.seconds >= sum(work) - 1e-9
    assert 0.0 <= timeline.bubble_fraction < 1.0
    assert timeline.busy_S == pytest.approx([microbatches * one for one in work])


@given(pipelines())
def test_slower_links_never_help(case: tuple[list[float], list[float], int, list[float], str, int]) -> None:
    assert run(case, hop_S=[2.0 * hop for hop in case[3]]).seconds >= run(case).seconds - 1e-9


@settings(max_examples=50)
@given(
    stages=st.integers(1, 8),
    rounds=st.integers(1, 6),
    forward=TIMES,
    backward=TIMES,
    chunks=st.integers(1, 4),
)
def test_closed_form_is_exact_for_balanced_stages(
    stages: int, rounds: int, forward: float, backward: float, chunks: int
) -> None:
    microbatches = stages * rounds
    timeline = simulate_pipeline(
        [forward] * stages, [backward] * stages, microbatches, schedule="interleaved", chunks=chunks
    )
    closed = pipeline_time(np.full((1, stages), forward + backward), microbatches, chunks)
    assert timeline.seconds == pytest.approx(float(closed[0]), rel=0.01)


@pytest.mark.parametrize(("hop", "apart"), [(0.0, 0.001), (0.02, 0.01), (0.1, 0.02)])
def test_closed_form_with_hops(hop: float, apart: float) -> None:
    """A round trip lengthens the cycle of 1F1B; the closed form hides none of it, the timeline where links allow."""
    stages, microbatches, forward, backward = 4, 64, 1.0, 2.0
    hops = [hop] * (stages - 1)
    times = [forward] * stages, [backward] * stages
    stage = np.array([[forward + backward + 2.0 * hop] * (stages - 1) + [forward + backward]])
    closed = float(pipeline_time(stage, microbatches)[0])
    taken = simulate_pipeline(*times, microbatches, hop_S=hops).seconds
    assert closed * (1 - apart) <= taken <= closed * (1 + 1e-9)
    # GPipe has other microbatches to work on meanwhile, at the price of holding all of them
    assert simulate_pipeline(*times, microbatches, hop_S=hops, schedule="gpipe").seconds <= taken


@given(st.lists(TIMES, min_size=2, max_size=6), st.integers(1, 24))
def test_closed_form_bounds_uneven_stages(forward: list[float], microbatches: int) -> None:
    """With backward passes in proportion, uneven stages take at most what the closed form says.

    It lets every stage fill and drain alone; in the timeline a stage works while slower ones behind it still fill.
    """
    timeline = simulate_pipeline(forward, [2.0 * one for one in forward], microbatches)
    closed = float(pipeline_time(3.0 * np.array([forward]), microbatches)[0])
    assert timeline.seconds <= closed * (1 + 1e-9)
    assert timeline.seconds >= 3.0 * microbatches * max(forward) * (1 - 1e-9)


@pytest.mark.parametrize(("stages", "chunks"), [(4, 1), (8, 3), (4, 5)])
def test_in_flight_is_what_memory_counts(stages: int, chunks: int) -> None:
    microbatches = 4 * stages
    timeline = simulate_pipeline([1.0] * stages, [2.0] * stages, microbatches, schedule="interleaved", chunks=chunks)
    counted = [
        chunks * microbatches_in_flight(microbatches, position=s, stages=stages, chunks=chunks) for s in range(stages)
    ]
    assert list(timeline.in_flight_S) == pytest.approx(counted)


def test_gpipe_holds_everything() -> None:
    assert simulate_pipeline([1.0] * 3, [1.0] * 3, 9, schedule="gpipe").in_flight_S == (9, 9, 9)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="schedule"):
        simulate_pipeline([1.0], [1.0], 1, schedule="zigzag")
    with pytest.raises(InputError, match="divide by the stages"):
        simulate_pipeline([1.0] * 4, [1.0] * 4, 6, schedule="interleaved", chunks=2)
    with pytest.raises(InputError, match="as many backward times"):
        simulate_pipeline([1.0], [], 1)
