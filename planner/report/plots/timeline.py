"""The timeline of a training iteration as a Gantt picture: a row for each stage, a bar for each pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from planner.report.plots.placed import INK, MUTED, lighten, need_matplotlib, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from planner.simulate import TrainingTimeline

__all__ = ["plot_timeline"]

# "Bright" of P. Tol, "Colour schemes", SRON/EPS/TN/09-002, 2021, told apart by colour-blind readers.
_HUES: Final = {
    "forward": "#4477AA",
    "backward": "#66CCEE",
    "activations or gradients on their way": "#AA3377",
    "gradient sync": "#CCBB44",
    "optimizer": "#228833",
    "tied embeddings": "#EE6677",
    "engine": "#BBBBBB",
}
_HOP: Final = "activations or gradients on their way"
_WIDE: Final = 52  # passes of a stage that are told apart in one panel
_STEADY: Final = 10  # passes of the steady part that a panel shows, where the middle is left out
_DIGIT: Final = 0.006  # of the picture's width
_LABELLED: Final = 24  # stages that all have a label


def plot_timeline(timeline: TrainingTimeline, names_S: Sequence[str], title: str = "") -> Figure:
    """Draw one iteration.

    Of an iteration with many microbatches the beginning and the end are shown, and the even part between is left out.

    Parameters
    ----------
    timeline
        One iteration.
    names_S
        What each stage is called.
    title
        What is trained, and where.

    Returns
    -------
    matplotlib.figure.Figure
        Stages from top to bottom, time to the right; the share of the bubble is in the title.

    Raises
    ------
    InputError
        If matplotlib is missing.
    """
    need_matplotlib()
    windows = _windows(timeline)
    figure = new_figure(13, 1.9 + min(0.42 * timeline.stages, 14.0))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(windows), sharey=True, squeeze=False)[0]
    for axes, window in zip(panels, windows, strict=True):
        _panel(axes, timeline, window, 1.0 / len(windows))
    every = range(timeline.stages)
    shown = [s for s in every if timeline.stages <= _LABELLED or s % (timeline.stages // _LABELLED + 1) == 0]
    panels[0].set_yticks(shown, [names_S[s] for s in shown], fontsize=8)
    panels[0].set_ylim(timeline.stages - 0.45, -0.55)
    bubble = f"bubble {timeline.bubble_fraction:.1%}".replace("%", " %")
    run = f"{timeline.schedule}, {timeline.microbatches} microbatches"
    first = f"{title}\n" if title else ""
    figure.suptitle(
        f"{first}{timeline.seconds:.3g} s an iteration, {bubble} of the pipeline's GPU time ({run})",
        x=0.01, ha="left", fontsize=11, color=INK,
    )  # fmt: skip
    panels[0].set_xlabel("seconds from the start of the iteration", loc="left", fontsize=9, color=INK)
    figure.legend(handles=_legend(timeline), loc="outside lower left", ncols=7, frameon=False, fontsize=8.5,
                  labelcolor=INK)  # fmt: skip
    return figure


def _windows(timeline: TrainingTimeline) -> list[tuple[float, float]]:
    """Spans of time to draw: the whole, or beginning and end."""
    number = 2 * timeline.microbatches * timeline.chunks
    seen = 2 * timeline.stages * timeline.chunks + _STEADY
    if number <= max(_WIDE, 2 * seen):
        return [(0.0, timeline.seconds)]
    first = [event for event in timeline.passes.events if event.stage == 0]
    last = [event for event in timeline.passes.events if event.stage == timeline.stages - 1]
    return [(0.0, first[seen].end), (last[-seen].start, timeline.seconds)]


def _panel(axes: Axes, timeline: TrainingTimeline, window: tuple[float, float], share: float) -> None:
    """Draw a span of time on a share of the picture's width."""
    low, high = window
    bars: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for event in timeline.passes.events:
        if event.end > low and event.start < high:
            bars.setdefault((event.stage, event.kind), []).append((event.start, event.end - event.start))
            room = (event.end - event.start) / (high - low) / (_DIGIT * (len(str(event.microbatch)) + 0.5))
            if room * share >= 1 and low <= event.start and event.end <= high:
                ink = "white" if event.kind == "forward" else INK
                middle = (event.start + event.end) / 2.0
                axes.text(middle, event.stage, str(event.microbatch), fontsize=7, color=ink, ha="center", va="center")
    for tail in timeline.tails:
        if tail.end > low and tail.start < high:
            bars.setdefault((tail.stage, tail.kind), []).append((tail.start, tail.end - tail.start))
    for (stage, kind), spans in bars.items():
        axes.broken_barh(spans, (stage - 0.36, 0.72), facecolors=_HUES[kind], edgecolors="white", linewidth=0.4)
    sent: dict[int, list[tuple[float, float]]] = {}
    for hop in timeline.hops:
        if hop.end > low and hop.start < high:
            sent.setdefault(hop.stage, []).append((hop.start, hop.end - hop.start))
    for stage, spans in sent.items():
        axes.broken_barh(spans, (stage + 0.38, 0.09), facecolors=_HUES[_HOP], linewidth=0)
    axes.set_xlim(low, high)
    axes.tick_params(labelsize=8, colors=INK)
    if low > 0:
        axes.set_title("… the last microbatches", loc="left", fontsize=8.5, color=MUTED)
    elif high < timeline.seconds:
        axes.set_title("the first microbatches …", loc="left", fontsize=8.5, color=MUTED)
    lighten(axes)


def _legend(timeline: TrainingTimeline) -> list[object]:
    from matplotlib.patches import Patch

    there = {"forward", "backward", *(tail.kind for tail in timeline.tails), *([_HOP] if timeline.hops else [])}
    return [Patch(color=hue, label=kind) for kind, hue in _HUES.items() if kind in there]
