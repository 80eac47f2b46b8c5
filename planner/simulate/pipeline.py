"""The timeline of one training iteration through a pipeline: which stage does what, when.

Every stage works through its passes in the order of the schedule and waits for what each needs: a forward pass for the
activations of the stage before, a backward pass for the gradients of the stage after and for its own forward pass. A
transfer begins when its pass has ended, takes the link's time and keeps neither stage from computing.

* ``1f1b``: as many forward passes as there are stages behind, then one forward and one backward in turn;
* ``gpipe``: all forward passes, then all backward passes;
* ``interleaved``: 1F1B over v chunks of each stage's layers, as Megatron-Core orders them: microbatches go in groups
  of S through one chunk after the other.

What the closed form of `planner.cost.training.pipeline_time` says is checked against this.

Legend: S stage, V chunk of a stage.

References
----------
Y. Huang et al., "GPipe", NeurIPS 2019. D. Narayanan et al., "PipeDream", SOSP 2019, and "Efficient large-scale language
model training on GPU clusters using Megatron-LM", SC 2021, section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from planner.errors import InputError, unknown_name

__all__ = ["SCHEDULES", "Event", "Timeline", "simulate_pipeline"]

Pass = tuple[Literal["forward", "backward"], int, int]  # microbatch, chunk


@dataclass(frozen=True, slots=True)
class Event:
    """One pass of one stage.

    Parameters
    ----------
    stage, kind, microbatch, chunk
        What is done where.
    start, end
        Seconds from the start of the iteration.
    """

    stage: int
    kind: Literal["forward", "backward"]
    microbatch: int
    chunk: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """All passes of an iteration.

    Parameters
    ----------
    events
        By stage, and within a stage by time.
    stages
        Their number.
    """

    events: tuple[Event, ...]
    stages: int

    @property
    def seconds(self) -> float:
        """When the last pass ends."""
        return max(event.end for event in self.events)

    @property
    def busy_S(self) -> tuple[float, ...]:
        """Seconds that each stage computes."""
        totals = [0.0] * self.stages
        for event in self.events:
            totals[event.stage] += event.end - event.start
        return tuple(totals)

    @property
    def bubble_fraction(self) -> float:
        """Share of the stages' time in which they wait."""
        return 1.0 - sum(self.busy_S) / (self.stages * self.seconds)

    @property
    def in_flight_S(self) -> tuple[int, ...]:
        """Most passes whose activations a stage holds at once, chunks counted one by one."""
        most, held = [0] * self.stages, [0] * self.stages
        for event in self.events:
            held[event.stage] += 1 if event.kind == "forward" else -1
            most[event.stage] = max(most[event.stage], held[event.stage])
        return tuple(most)


def _one_forward_one_backward(stage: int, stages: int, microbatches: int, chunks: int) -> list[Pass]:
    warm_up = min(microbatches, stages - stage - 1)
    order: list[Pass] = [("forward", m, 0) for m in range(warm_up)]
    for m in range(microbatches - warm_up):
        order += [("forward", m + warm_up, 0), ("backward", m, 0)]
    return order + [("backward", m, 0) for m in range(microbatches - warm_up, microbatches)]


def _gpipe(stage: int, stages: int, microbatches: int, chunks: int) -> list[Pass]:
    forward: list[Pass] = [("forward", m, 0) for m in range(microbatches)]
    return forward + [("backward", m, 0) for m in range(microbatches)]


def _interleaved(stage: int, stages: int, microbatches: int, chunks: int) -> list[Pass]:
    if chunks == 1:
        return _one_forward_one_backward(stage, stages, microbatches, chunks)

    def place(number: int) -> tuple[int, int]:
        group, rest = divmod(number, stages * chunks)
        chunk, member = divmod(rest, stages)
        return group * stages + member, chunk

    total = microbatches * chunks
    warm_up = min(total, 2 * (stages - stage - 1) + (chunks - 1) * stages)
    forward: list[Pass] = [("forward", *place(k)) for k in range(total)]
    places = [place(k) for k in range(total)]
    backward: list[Pass] = [("backward", m, chunks - 1 - c) for m, c in places]
    order = forward[:warm_up]
    for k in range(total - warm_up):
        order += [forward[warm_up + k], backward[k]]
    return order + backward[total - warm_up :]


SCHEDULES: Final[dict[str, Callable[[int, int, int, int], list[Pass]]]] = {
    "1f1b": _one_forward_one_backward,
    "gpipe": _gpipe,
    "interleaved": _interleaved,
}
"""Order of a stage's passes: of (stage, stages, microbatches, chunks)."""


def simulate_pipeline(
    forward_S: Sequence[float],
    backward_S: Sequence[float],
    microbatches: int,
    *,
    hop_S: Sequence[float] = (),
    schedule: str = "1f1b",
    chunks: int = 1,
) -> Timeline:
    """Run one iteration.

    Parameters
    ----------
    forward_S, backward_S
        Seconds of a microbatch on each stage, all of its chunks together.
    microbatches
        Per iteration.
    hop_S
        Seconds from each stage to the next, either direction; with several chunks also from the last stage to the
        first. Missing ones take no time.
    schedule
        A name in `SCHEDULES`.
    chunks
        Of each stage's layers; more than 1 for ``interleaved`` only, which asks for a multiple of the stages as
        number of microbatches.

    Raises
    ------
    InputError
        If the schedule is not known, or does not go with the numbers.

    Examples
    --------
    >>> simulate_pipeline([1.0] * 4, [2.0] * 4, 8).seconds == (8 + 4 - 1) * 3.0
    True
    """
    stages = len(forward_S)
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    if not stages or len(backward_S) != stages or microbatches < 1 or chunks < 1:
        raise InputError(
            f"has {stages} forward and {len(backward_S)} backward times, {microbatches} microbatches, {chunks} chunks",
            expected="as many backward times as forward times, at least one microbatch and one chunk",
        )
    if chunks > 1 and (schedule != "interleaved" or microbatches % stages):
        raise InputError(
            f"{schedule} with {chunks} chunks and {microbatches} microbatches over {stages} stages",
            field="chunks",
            expected="schedule 'interleaved', and microbatches that divide by the stages",
        )
    hops = [*hop_S, *[0.0] * (stages - len(hop_S))]
    order_S = [SCHEDULES[schedule](s, stages, microbatches, chunks) for s in range(stages)]
    last = stages * chunks - 1
    done: dict[tuple[str, int, int], float] = {}  # by kind, microbatch, and position in the whole model
    at, free = [0] * stages, [0.0] * stages
    events_S: list[list[Event]] = [[] for _ in range(stages)]

    def ready(kind: str, microbatch: int, position: int) -> float | None:
        """When what a pass needs is there; None: nobody knows yet."""
        if kind == "forward":
            if position == 0:
                return 0.0
            before = done.get(("forward", microbatch, position - 1))
            return None if before is None else before + hops[(position - 1) % stages]
        own = done.get(("forward", microbatch, position))
        if own is None or position == last:
            return own
        after = done.get(("backward", microbatch, position + 1))
        return None if after is None else max(own, after + hops[position % stages])

    moved = True
    while moved:
        moved = False
        for s in range(stages):
            while at[s] < len(order_S[s]):
                kind, microbatch, chunk = order_S[s][at[s]]
                position = chunk * stages + s
                there = ready(kind, microbatch, position)
                if there is None:
                    break
                start = max(free[s], there)
                end = start + (forward_S if kind == "forward" else backward_S)[s] / chunks
                events_S[s].append(Event(s, kind, microbatch, chunk, start, end))
                done[kind, microbatch, position] = free[s] = end
                at[s] += 1
                moved = True
    assert all(at[s] == len(order_S[s]) for s in range(stages)), "a schedule that waits for itself"
    return Timeline(tuple(event for events in events_S for event in events), stages)
