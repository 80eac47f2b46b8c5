"""The timeline of a whole training iteration: passes, transfers, gradient sync and optimizer of every stage.

The passes are those of `planner.simulate.pipeline`. When a stage has ended its last backward pass it adds up its
gradients and updates its weights, whatever the other stages still do; when all have, embeddings that are tied are
exchanged, and the engine's overhead ends the iteration. All replicas of a stage do the same at the same time: the
slowest of them gives the times.

The closed form of `planner.cost.training` lets every stage fill and drain the pipeline alone, keeps transfers apart
from passes, and starts no update before the pipeline is empty. `TrainingTimeline.apart` says how much each of that
makes.

Legend: S stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from planner.cost.training import pipeline_time, predict_training
from planner.simulate.pipeline import Event, Timeline, simulate_pipeline

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.cost._types import Array
    from planner.cost.training import TrainingPrediction
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import Schedule, TrainingPlan

__all__ = ["Apart", "Hop", "Tail", "TailKind", "TrainingTimeline", "plan_timeline", "timeline_of"]

TailKind = Literal["gradient sync", "optimizer", "tied embeddings", "engine"]


@dataclass(frozen=True, slots=True)
class Hop:
    """Activations or gradients of a microbatch on their way from one stage to another, in seconds."""

    stage: int
    to: int
    kind: Literal["forward", "backward"]
    microbatch: int
    chunk: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Tail:
    """What a stage does after its last backward pass, in seconds."""

    stage: int
    kind: TailKind
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Apart:
    """By how many seconds the closed form is above the timeline, and why.

    Parameters
    ----------
    uneven
        Stages fill and drain while slower ones still work.
    hops
        Transfers run beside passes.
    updates
        Stages that end early update early.
    """

    uneven: float
    hops: float
    updates: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.uneven + self.hops + self.updates


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingTimeline:
    """One iteration.

    Parameters
    ----------
    passes
        Forward and backward passes.
    hops, tails
        Transfers, by when they start; what follows the passes, by stage.
    microbatches, chunks, schedule
        As they were run.
    gpus_S
        GPUs of each stage.
    seconds, closed_form
        Of the iteration, by the timeline and by the closed form.
    apart
        What lies between the two.
    """

    passes: Timeline
    hops: tuple[Hop, ...]
    tails: tuple[Tail, ...]
    microbatches: int
    chunks: int
    schedule: str
    gpus_S: tuple[int, ...]
    seconds: float
    closed_form: float
    apart: Apart

    @property
    def stages(self) -> int:
        """Their number."""
        return self.passes.stages

    @property
    def bubble_fraction(self) -> float:
        """Share of GPU time in the pipeline's run in which GPUs wait."""
        busy = float(np.dot(self.gpus_S, self.passes.busy_S))
        return 1.0 - busy / (sum(self.gpus_S) * self.passes.seconds)

    @property
    def bubble_S(self) -> tuple[float, ...]:
        """Seconds of the pipeline's run in which a stage waits."""
        return tuple(self.passes.seconds - busy for busy in self.passes.busy_S)

    @property
    def sending_S(self) -> tuple[float, ...]:
        """Seconds that what a stage sends is on its way."""
        totals = [0.0] * self.stages
        for hop in self.hops:
            totals[hop.stage] += hop.end - hop.start
        return tuple(totals)

    def tail_S(self, kind: TailKind) -> tuple[float, ...]:
        """Seconds of one kind of `Tail`."""
        totals = [0.0] * self.stages
        for tail in self.tails:
            totals[tail.stage] += tail.end - tail.start if tail.kind == kind else 0.0
        return tuple(totals)


def plan_timeline(plan: TrainingPlan, model: ModelSpec, cluster: Cluster, engine: EngineProfile) -> TrainingTimeline:
    """Run one iteration of a plan, with times computed anew from what it was made for.

    Parameters
    ----------
    plan
        The plan; it need not fit.
    model, cluster, engine
        What it was made for.
    """
    prediction = predict_training(model, cluster, engine, plan.inputs.job, plan.stages, plan.schedule)
    return timeline_of(prediction, plan.schedule, [len(stage.devices) for stage in plan.stages])


def timeline_of(prediction: TrainingPrediction, schedule: Schedule, gpus_S: Sequence[int]) -> TrainingTimeline:
    """Run one iteration of a priced plan.

    Parameters
    ----------
    prediction
        Its price.
    schedule
        How the pipeline is run.
    gpus_S
        GPUs of each stage.
    """
    chunks, microbatches = schedule.virtual_stages, schedule.microbatches
    stage_S, there_S = prediction.work_S + prediction.hop_S, prediction.hop_S / (2.0 * chunks)
    backward_S = prediction.work_S - prediction.forward_S

    def run(hop_S: Array) -> Timeline:
        return simulate_pipeline(
            prediction.forward_S.tolist(),
            backward_S.tolist(),
            microbatches,
            hop_S=hop_S.tolist(),
            schedule=schedule.name,
            chunks=chunks,
        )

    def closed(time_S: Array) -> float:
        return float(pipeline_time(time_S[None], microbatches, chunks)[0])

    passes = run(there_S)
    tails, ends = _tails(prediction, passes, closed(stage_S))
    alone = run(np.zeros_like(there_S)).seconds if there_S.any() else passes.seconds
    uneven = closed(prediction.work_S) - alone
    return TrainingTimeline(
        passes=passes,
        hops=_hops(passes, there_S, chunks),
        tails=tails,
        microbatches=microbatches,
        chunks=chunks,
        schedule=schedule.name,
        gpus_S=tuple(gpus_S),
        seconds=ends,
        closed_form=prediction.iteration_time,
        apart=Apart(
            uneven=uneven,
            hops=closed(stage_S) - passes.seconds - uneven,
            updates=(prediction.iteration_time - closed(stage_S)) - (ends - passes.seconds),
        ),
    )


def _tails(prediction: TrainingPrediction, passes: Timeline, pipeline: float) -> tuple[tuple[Tail, ...], float]:
    """What follows the passes, and when the iteration ends."""
    stages = passes.stages
    end_S = [max(event.end for event in passes.events if event.stage == s) for s in range(stages)]
    tails: list[Tail] = []

    def add(stage: int, kind: TailKind, seconds: float) -> None:
        if seconds > 0:
            tails.append(Tail(stage, kind, end_S[stage], end_S[stage] + seconds))
            end_S[stage] += seconds

    for s in range(stages):
        add(s, "gradient sync", float(prediction.sync_S[s]))
        add(s, "optimizer", float(prediction.update_S[s] - prediction.sync_S[s]))
    overhead = prediction.iteration_time - pipeline - float(prediction.update_S.max()) - prediction.tied
    end_S = [max(end_S)] * stages
    for s in sorted({0, stages - 1}):
        add(s, "tied embeddings", prediction.tied)
    end_S = [max(end_S)] * stages
    for s in range(stages):
        add(s, "engine", overhead)
    return tuple(sorted(tails, key=lambda tail: (tail.stage, tail.start))), max(end_S)


def _hops(passes: Timeline, there_S: Array, chunks: int) -> tuple[Hop, ...]:
    stages = passes.stages
    last, hops = stages * chunks - 1, []
    for event in passes.events:
        position = event.chunk * stages + event.stage
        if event.kind == "forward" and position < last:
            to, seconds = (event.stage + 1) % stages, float(there_S[event.stage])
        elif event.kind == "backward" and position > 0:
            to = (event.stage - 1) % stages
            seconds = float(there_S[to])
        else:
            continue
        if seconds > 0 and to != event.stage:
            hops.append(_hop(event, to, seconds))
    return tuple(sorted(hops, key=lambda hop: (hop.start, hop.stage, hop.to)))


def _hop(event: Event, to: int, seconds: float) -> Hop:
    return Hop(event.stage, to, event.kind, event.microbatch, event.chunk, event.end, event.end + seconds)
