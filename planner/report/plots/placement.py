"""The cluster with every GPU in the colour of the stage it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from planner.plan import Plan, ServingPlan, TrainingPlan
from planner.report.plots.floorplan import Floorplan, floorplan
from planner.report.plots.links import draw_links
from planner.report.plots.placed import (
    IDLE,
    INK,
    MUTED,
    PlacedGroup,
    colours,
    fitting,
    groups_of,
    layer_text,
    need_matplotlib,
    new_figure,
    text_on,
)
from planner.report.words import format_error, format_figure, model_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from planner.cluster import Cluster

__all__ = ["plot_placement"]

_MARGIN: Final = 0.15  # inches around everything
_TITLE: Final = 0.34  # inches for the title
_LINE: Final = 0.21  # inches for a line of the legend
_LEGEND_COLUMN: Final = 3.7  # inches
_MOST_LEGEND_LINES: Final = 12

# Which colour a line of the legend shows, and its text; no colour for the line that stands for the rest.
_LegendLine = tuple[str | None, str]


def plot_placement(plan: Plan, cluster: Cluster) -> Figure:
    """Draw the cluster with every GPU in the colour of the stage it runs.

    Parameters
    ----------
    plan
        A serving or training plan.
    cluster
        The cluster it was made for.

    Returns
    -------
    matplotlib.figure.Figure
        Nodes as frames, GPUs as cells labelled with stage and layers, idle GPUs grey, and an arrow from each stage to
        the next, with the link's bandwidth where it leaves a node.

    Raises
    ------
    InputError
        If matplotlib is missing, or the plan names a GPU that the cluster lacks.

    Examples
    --------
    >>> from planner import estimate, load_cluster
    >>> cluster = load_cluster("1xh100")
    >>> plan = estimate("llama-3.1-8b", cluster, "azure-conv-2023", [[(cluster.gpus, 32)]], ttft=2.0, tpot=0.1)
    >>> plot_placement(plan, cluster).axes[0].texts[0].get_text()
    'llama-3.1-8b on 1xh100: 1 replica on 1 of 1 GPUs'
    """
    need_matplotlib()
    groups = groups_of(plan)
    used = [gpu for group in groups for gpu in group.devices]
    for gpu in used:
        cluster.node_of(gpu)  # a GPU of another cluster is told as such
    # Many GPUs are drawn smaller.
    cell = 0.62 if cluster.num_gpus <= 72 else 0.42 if cluster.num_gpus <= 300 else 0.3
    layout = floorplan(cluster, row_width=10.5 / cell)
    palette = colours(groups)
    title = _title(plan, cluster, len(used))
    legend = _legend(plan, palette, cluster.num_gpus - len(used))
    width = max(layout.width * cell, 0.083 * len(title), min(len(legend), 2) * _LEGEND_COLUMN)
    per_column = -(-len(legend) // 2)
    height = _TITLE + layout.height * cell + 0.12 + _LINE * per_column
    figure = new_figure(width + 2 * _MARGIN, height + 2 * _MARGIN)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # One unit is one GPU cell; the floor plan starts at the origin, the title above and the legend below it.
    axes.set_xlim(-_MARGIN / cell, (width + _MARGIN) / cell)
    axes.set_ylim((height - _TITLE + _MARGIN) / cell, -(_TITLE + _MARGIN) / cell)
    axes.text(0, -0.65 * _TITLE / cell, title, fontsize=11, color=INK, va="center")
    _draw_nodes(axes, layout, cell)
    for group in groups:
        _draw_group(axes, layout, group, palette[group.pipeline, group.stage], cell)
    draw_links(axes, layout, groups, cluster, cell)
    _draw_legend(axes, legend, layout.height + 0.22 / cell, cell)
    return figure


def _title(plan: Plan, cluster: Cluster, used: int) -> str:
    if isinstance(plan, ServingPlan):
        what = f"{len(plan.replicas)} replica{'s' * (len(plan.replicas) != 1)}"
    else:
        what = f"{len(plan.stages)} stage{'s' * (len(plan.stages) != 1)}"
    return f"{model_names(plan)} on {cluster.name}: {what} on {used} of {cluster.num_gpus} GPUs"


def _draw_nodes(axes: Axes, layout: Floorplan, cell: float) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    for text, x, y in layout.headings:
        axes.text(
            x, y, text, fontsize=max(12.5 * cell, 6.5), color=MUTED, va="center", weight="bold",
            zorder=7, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},  # above the arrows
        )  # fmt: skip
    for node, box in layout.nodes.items():
        frame = FancyBboxPatch(
            (box.x, box.y), box.width, box.height, boxstyle="round,pad=0,rounding_size=0.14",
            facecolor="#f7f7f7", edgecolor="#a8a8a8", linewidth=0.8,
        )  # fmt: skip
        frame.set_gid(f"node:{node}")
        axes.add_patch(frame)
        axes.text(box.x + 0.06, box.y - 0.17, node, fontsize=12 * cell, color=INK, va="center")
    for gpu, box in layout.gpus.items():
        idle = Rectangle((box.x, box.y), 1, 1, facecolor=IDLE, edgecolor="white", linewidth=2.2 * cell)
        idle.set_gid(f"gpu:{gpu}")
        axes.add_patch(idle)


def _draw_group(axes: Axes, layout: Floorplan, group: PlacedGroup, colour: str, cell: float) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    for gpu in group.devices:
        box = layout.gpus[gpu]
        # The seams between the GPUs of a group stay faint, because its label is written over them.
        square = Rectangle((box.x, box.y), 1, 1, facecolor=colour, edgecolor=to_rgba("white", 0.45), linewidth=cell)
        square.set_gid(f"used:{gpu}")
        axes.add_patch(square)
    for block in layout.blocks(group.devices):
        axes.add_patch(
            Rectangle((block.x, block.y), block.width, block.height, fill=False, edgecolor=INK, linewidth=1.6 * cell)
        )
        text, size = fitting(
            _labels(group), block.width * cell, block.height * cell, largest=14 * cell, smallest=min(6.2, 11 * cell)
        )
        if text:
            axes.text(
                *block.centre, text, fontsize=size, color=text_on(colour), ha="center", va="center", linespacing=1.15
            )


def _labels(group: PlacedGroup) -> list[str]:
    """What could be written on a group, the longest first."""
    layers = layer_text(group.layers)
    takes = "" if group.sequences is None else f"\n{group.sequences} seq."
    if not group.pipeline:
        short = f"s{group.stage}"
    else:
        short = f"{group.pipeline}.{group.stage}" if group.num_stages > 1 else group.pipeline
    name = group.title if group.num_stages > 1 or not group.pipeline else group.pipeline
    return [
        f"{name}\nlayers {layers}{takes}",
        f"{name}\nlayers {layers}",
        f"{short}\nL {layers}",
        f"{short}\n{layers}",
        short,
    ]


def _legend(plan: Plan, palette: Mapping[tuple[str, int], str], idle: int) -> list[_LegendLine]:
    lines = _replica_lines(plan, palette) if isinstance(plan, ServingPlan) else _stage_lines(plan, palette)
    if len(lines) > _MOST_LEGEND_LINES:
        kept = lines[: _MOST_LEGEND_LINES - 1]
        lines = [*kept, (None, f"… and {len(lines) - len(kept)} more")]
    if idle:
        lines.append((IDLE, f"idle: {idle} GPUs"))
    return lines


def _replica_lines(plan: ServingPlan, palette: Mapping[tuple[str, int], str]) -> list[_LegendLine]:
    """One line for each replica, or each kind of them where there are many."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for replica in plan.replicas:
        stages = f"{len(replica.stages)} stage{'s' * (len(replica.stages) != 1)}"
        tp = "+".join(dict.fromkeys(f"{stage.tp}" for stage in replica.stages))
        goodput = replica.predicted.get("goodput")
        serves = "" if goodput is None else f", {format_figure(goodput)} {format_error(goodput.error)}"
        text = f"{stages}, TP {tp}{serves}"
        alike.setdefault((text,) if len(plan.replicas) > _MOST_LEGEND_LINES else (text, replica.id), []).append(
            replica.id
        )
    return [
        (palette[ids[0], 0], f"{ids[0]}: {text}" if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} alike: {text}")
        for (text, *_), ids in alike.items()
    ]


def _stage_lines(plan: TrainingPlan, palette: Mapping[tuple[str, int], str]) -> list[_LegendLine]:
    return [
        (palette["", s], f"stage {s}: layers {layer_text(stage.layers)}, DP {stage.dp} × TP {stage.tp}")
        for s, stage in enumerate(plan.stages)
    ]


def _draw_legend(axes: Axes, lines: Sequence[_LegendLine], top: float, cell: float) -> None:
    """Write the legend in two columns; it is part of the drawing, so that its size is known beforehand."""
    from matplotlib.patches import Rectangle

    per_column = -(-len(lines) // 2)
    for index, (colour, text) in enumerate(lines):
        column, row = divmod(index, per_column)
        x, y = column * _LEGEND_COLUMN / cell, top + row * _LINE / cell
        if colour is not None:
            axes.add_patch(Rectangle((x, y - 0.06 / cell), 0.2 / cell, 0.12 / cell, facecolor=colour))
        axes.text(x + 0.28 / cell, y, text, fontsize=8.5, color=INK, va="center")
