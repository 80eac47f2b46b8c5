"""Which GPUs hold which layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from planner.plan import Plan, Replica, ServingPlan, TrainingPlan
from planner.report.plots.placed import (
    INK,
    MOST_ROWS,
    PlacedGroup,
    colours,
    fitting,
    groups_of,
    lighten,
    need_matplotlib,
    new_figure,
    text_on,
)
from planner.report.words import format_gpus, model_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from planner.cluster import Cluster

__all__ = ["plot_layers"]

_BAR_INCHES: Final = 8.2  # of a bar over all layers, about
_WHOLE: Final = 2  # the first texts of a bar, in one line and in two, say everything
# A bar: the stage (pipeline, index) whose colour it has, its layers, and what could be written on it, longest first.
_Bar = tuple[tuple[str, int], tuple[int, int], list[str]]
_Row = tuple[str, list[_Bar]]


def plot_layers(plan: Plan, cluster: Cluster) -> Figure:
    """Draw which GPUs hold which layers: layers from left to right, a row for each replica or training stage.

    Parameters
    ----------
    plan
        A serving or training plan.
    cluster
        The cluster it was made for.

    Returns
    -------
    matplotlib.figure.Figure
        A bar for each stage, labelled with its GPUs. In a training plan a row for each kind of data-parallel group. Of
        more than 24 replicas, alike ones share a row.

    Raises
    ------
    InputError
        If matplotlib is missing, or the plan names a GPU that the cluster lacks.
    """
    need_matplotlib()
    groups = groups_of(plan)
    palette = colours(groups)
    rows = _serving_rows(plan, cluster) if isinstance(plan, ServingPlan) else _training_rows(plan, groups, cluster)
    num_layers = max(group.layers[1] for group in groups)
    figure = new_figure(10, 1.05 + 0.42 * len(rows))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    for y, (_, bars) in enumerate(rows):
        for key, (first, end), texts in bars:
            colour = palette[key]
            axes.barh(y, end - first, left=first, height=0.78, color=colour, edgecolor="white", linewidth=1.2)
            text, size = fitting(texts, (end - first) / num_layers * _BAR_INCHES, 0.33, largest=8.5, smallest=6.5)
            if text in texts[:_WHOLE] or len(bars) > 1:
                axes.text((first + end) / 2, y, text, fontsize=size, color=text_on(colour), ha="center", va="center")
            else:  # a short bar that is alone in its row has room beside it
                at, side = (end, "left") if first + end < num_layers else (first, "right")
                axes.text(at, y, f"  {texts[0]}  ", fontsize=8.5, color=INK, ha=side, va="center")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, num_layers)
    axes.set_xticks(_ticks([group.layers for group in groups], num_layers))
    axes.set_xlabel("layer (ticks where stages meet)", color=INK)
    title = f"Layers of {model_names(plan)} over the GPUs of {cluster.name}"
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    lighten(axes)
    return figure


def _serving_rows(plan: ServingPlan, cluster: Cluster) -> list[_Row]:
    alike: dict[tuple[object, ...], list[Replica]] = {}
    for replica in plan.replicas:
        kind = tuple((cluster.device_of(stage.devices[0]).name, stage.tp, stage.layers) for stage in replica.stages)
        alike.setdefault(kind if len(plan.replicas) > MOST_ROWS else (replica.id,), []).append(replica)
    rows: list[_Row] = []
    for replicas in alike.values():
        first, share = replicas[0], sum(replica.share for replica in replicas)
        label = first.id if len(replicas) == 1 else f"{len(replicas)} like {first.id}"
        bars: list[_Bar] = []
        for s, stage in enumerate(first.stages):
            what = f"{stage.tp} × {cluster.device_of(stage.devices[0]).name}"
            texts = [what, f"{stage.tp} ×"]
            if len(replicas) == 1:
                gpus = format_gpus(stage.devices)
                texts = [f"{what}, {gpus}", f"{what}\n{gpus}", *texts]
            bars.append(((first.id, s), stage.layers, texts))
        rows.append((f"{label} ({share:.0%} of requests)".replace("%", " %"), bars))
    return rows


def _training_rows(plan: TrainingPlan, groups: Sequence[PlacedGroup], cluster: Cluster) -> list[_Row]:
    alike: dict[tuple[int, str, int], list[PlacedGroup]] = {}
    for group in groups:
        device = cluster.device_of(group.devices[0]).name
        alike.setdefault((group.stage, device, group.sequences or 0), []).append(group)
    rows: list[_Row] = []
    for (stage, device, sequences), members in alike.items():
        what = f"DP {len(members)} × TP {len(members[0].devices)} on {device}"
        takes = f"{sequences} sequence{'s' * (sequences != 1)} of a microbatch each"
        nodes = list(dict.fromkeys(cluster.node_of(gpu) for group in members for gpu in group.devices))
        where = nodes[0] if len(nodes) == 1 else f"{nodes[0]} … {nodes[-1]}"
        texts = [
            f"{what} ({where}), {takes}",
            f"{what} ({where})\n{takes}",
            f"{what}\n{takes}",
            what,
            f"{len(members)} × {len(members[0].devices)}",
        ]
        rows.append((f"stage {stage}", [(("", stage), plan.stages[stage].layers, texts)]))
    return rows


def _ticks(spans: Sequence[tuple[int, int]], num_layers: int) -> list[int]:
    """Where stages meet, as far as there is room for the numbers; the ends always."""
    room = num_layers / 40
    kept = [0]
    for edge in sorted({edge for span in spans for edge in span}):
        if edge - kept[-1] >= room and num_layers - edge >= room:
            kept.append(edge)
    return [*kept, num_layers]
