"""The timeline of a training iteration on the terminal: what each stage does all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from planner.report.terminal import data_table, heading
from planner.units import format_seconds

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.plan import TrainingPlan
    from planner.simulate import TrainingTimeline

__all__ = ["apart_in_words", "stage_names", "timeline_data", "timeline_report"]

_ALIKE = 0.01  # closed form and timeline are the same up to here


def stage_names(plan: TrainingPlan, cluster: Cluster) -> list[str]:
    """Name every stage: ``stage 0: layers 0-15, 4 x 2 a100_sxm_80``."""
    names = []
    for s, stage in enumerate(plan.stages):
        types = dict.fromkeys(cluster.device_of(gpu).name for gpu in stage.devices)
        names.append(f"stage {s}: {_held(plan, s)}, {stage.dp} x {stage.tp} {'+'.join(types)}")
    return names


def _held(plan: TrainingPlan, s: int) -> str:
    """Layers of a stage; how many where they lie in several chunks."""
    (first, end), chunks = plan.stages[s].layers, plan.schedule.virtual_stages
    return f"layers {first}-{end - 1}" if chunks == 1 else f"{end - first} layers in {chunks} chunks"


def timeline_report(timeline: TrainingTimeline, plan: TrainingPlan) -> RenderableType:
    """Tabulate what each stage does in an iteration, and how the timeline and the closed form compare."""
    sync_S, update_S = timeline.tail_S("gradient sync"), timeline.tail_S("optimizer")
    columns = ["stage", "layers", ">GPUs", ">busy", ">bubble", ">of the pipeline", ">sending", ">sync", ">optimizer"]
    rows = [
        (
            str(s),
            _held(plan, s).removeprefix("layers "),
            str(timeline.gpus_S[s]),
            format_seconds(timeline.passes.busy_S[s]),
            format_seconds(timeline.bubble_S[s]),
            f"{timeline.bubble_S[s] / timeline.passes.seconds:.1%}".replace("%", " %"),
            format_seconds(timeline.sending_S[s]),
            format_seconds(sync_S[s]),
            format_seconds(update_S[s]),
        )
        for s in range(timeline.stages)
    ]
    run = f"{timeline.schedule}, {timeline.microbatches} microbatches"
    run += f" in {timeline.chunks} chunks" if timeline.chunks > 1 else ""
    bubble = f"{timeline.bubble_fraction:.1%}".replace("%", " %")
    return Group(
        heading(f"Timeline ({run}): {bubble} of GPU time in the pipeline is bubble"),
        data_table(columns, rows, fold=("layers",)),
        Text(apart_in_words(timeline)),
    )


def apart_in_words(timeline: TrainingTimeline) -> str:
    """Compare closed form and timeline, and say where the difference comes from."""
    both = f"closed form {timeline.closed_form:.4g} s, timeline {timeline.seconds:.4g} s"
    apart = timeline.apart
    if abs(apart.seconds) <= _ALIKE * timeline.seconds:
        return f"{both}: the same within 1 %"
    reasons = []
    for seconds, more, less in (
        (apart.uneven, "stages that wait for slower ones fill and drain meanwhile", "forward and backward passes are"
         " uneven in other ratios from stage to stage, and the slowest of each do not line up"),
        (apart.hops, "transfers run beside passes", "transfers hold up more than the cycle of the slowest stage"),
        (apart.updates, "stages that end early update early", "the updates of the stages that end last are longest"),
    ):  # fmt: skip
        if abs(seconds) > 0.1 * _ALIKE * timeline.seconds:
            reasons.append(f"{format_seconds(abs(seconds))} {'less' if seconds > 0 else 'more'} as"
                           f" {more if seconds > 0 else less}")  # fmt: skip
    return f"{both}: " + "; ".join(reasons)


def timeline_data(timeline: TrainingTimeline) -> dict[str, object]:
    """Give the same figures to programs."""
    return {
        "schedule": timeline.schedule,
        "microbatches": timeline.microbatches,
        "chunks": timeline.chunks,
        "iteration_time": timeline.seconds,
        "closed_form": timeline.closed_form,
        "apart": {
            "uneven": timeline.apart.uneven,
            "hops": timeline.apart.hops,
            "updates": timeline.apart.updates,
        },
        "bubble_fraction": timeline.bubble_fraction,
        "stages": [
            {
                "busy": timeline.passes.busy_S[s],
                "bubble": timeline.bubble_S[s],
                "sending": timeline.sending_S[s],
                "gradient_sync": timeline.tail_S("gradient sync")[s],
                "optimizer": timeline.tail_S("optimizer")[s],
            }
            for s in range(timeline.stages)
        ],
    }
