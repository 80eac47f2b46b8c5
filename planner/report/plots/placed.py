"""What the pictures of a plan have in common: its tensor-parallel groups, colours, and text that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from planner.errors import InputError
from planner.plan import Plan, ServingPlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "IDLE",
    "INK",
    "MOST_ROWS",
    "MUTED",
    "PlacedGroup",
    "colours",
    "fitting",
    "groups_of",
    "layer_text",
    "lighten",
    "need_matplotlib",
    "new_figure",
    "text_on",
]

INK: Final = "#222222"
MUTED: Final = "#6b6b6b"
IDLE: Final = "#dcdcdc"
MOST_ROWS: Final = 24
"""Of more replicas than these, alike ones share a row of a bar chart."""

# "Muted" of P. Tol, "Colour schemes", SRON/EPS/TN/09-002, 2021: told apart by colour-blind readers.
_HUES: Final = (
    "#332288", "#CC6677", "#44AA99", "#DDCC77", "#882255", "#88CCEE", "#117733", "#AA4499", "#999933",
)  # fmt: skip
_LIGHTEST: Final = 0.55


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedGroup:
    """One tensor-parallel group of a plan.

    Parameters
    ----------
    pipeline
        The replica's id; "" in a training plan, which is one pipeline.
    stage, num_stages
        Which stage of how many.
    devices
        GPUs, ``node/index``.
    layers
        [first, end).
    sequences
        Of each microbatch, in a training plan.
    """

    pipeline: str
    stage: int
    num_stages: int
    devices: tuple[str, ...]
    layers: tuple[int, int]
    sequences: int | None = None

    @property
    def title(self) -> str:
        """The group's stage by name: ``r0 stage 1``."""
        return f"{self.pipeline} stage {self.stage}".strip()


def groups_of(plan: Plan) -> list[PlacedGroup]:
    """Tensor-parallel groups of a plan, replica by replica and stage by stage."""
    if isinstance(plan, ServingPlan):
        return [
            PlacedGroup(
                pipeline=replica.id,
                stage=s,
                num_stages=len(replica.stages),
                devices=stage.devices,
                layers=stage.layers,
            )
            for replica in plan.replicas
            for s, stage in enumerate(replica.stages)
        ]
    return [
        PlacedGroup(
            pipeline="",
            stage=s,
            num_stages=len(plan.stages),
            devices=stage.devices[index * stage.tp : (index + 1) * stage.tp],
            layers=stage.layers,
            sequences=sequences,
        )
        for s, stage in enumerate(plan.stages)
        for index, sequences in enumerate(stage.microbatch_shares)
    ]


def colours(groups: Sequence[PlacedGroup]) -> dict[tuple[str, int], str]:
    """Colour of each stage: a hue for each replica, lighter with each stage; one pipeline runs through a scale.

    Returns
    -------
    dict
        (pipeline, stage) to ``#rrggbb``.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex, to_rgb

    pipelines = list(dict.fromkeys(group.pipeline for group in groups))
    found: dict[tuple[str, int], str] = {}
    for group in groups:
        share = group.stage / max(group.num_stages - 1, 1)
        if len(pipelines) == 1:
            colour = to_rgb(colormaps["viridis"](0.25 + 0.65 * share) if group.num_stages > 1 else _HUES[0])
        else:
            red, green, blue = to_rgb(_HUES[pipelines.index(group.pipeline) % len(_HUES)])
            white = _LIGHTEST * share
            colour = (red + (1 - red) * white, green + (1 - green) * white, blue + (1 - blue) * white)
        found[group.pipeline, group.stage] = to_hex(colour)
    return found


def text_on(colour: str) -> str:
    """Dark or white, whichever has more contrast with a colour as WCAG 2 defines it.

    Examples
    --------
    >>> text_on("#332288"), text_on("#DDCC77")
    ('white', '#222222')
    """
    behind = _luminance(colour) + 0.05
    return INK if behind / (_luminance(INK) + 0.05) > (1 + 0.05) / behind else "white"


def _luminance(colour: str) -> float:
    from matplotlib.colors import to_rgb

    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def layer_text(layers: tuple[int, int]) -> str:
    """First and last layer.

    Examples
    --------
    >>> layer_text((0, 40)), layer_text((7, 8))
    ('0–39', '7')
    """
    first, end = layers
    return f"{first}" if end == first + 1 else f"{first}–{end - 1}"


def need_matplotlib() -> None:
    """Say what to install where matplotlib is missing.

    Raises
    ------
    InputError
        If it is.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError(
            "pictures need matplotlib, which is not installed", hint="pip install 'hetplan[plot]', or matplotlib itself"
        ) from None


def new_figure(width: float, height: float) -> Figure:
    """Figure of a size in inches, outside pyplot, so that nothing global changes and no display is needed."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, facecolor="white")


def fitting(texts: Sequence[str], width: float, height: float, *, largest: float, smallest: float) -> tuple[str, float]:
    """Longest text, and its size in points, that a box has room for; "" if none is readable there.

    Parameters
    ----------
    texts
        What could be written, the longest first; lines are parted by newlines.
    width, height
        Of the box, in inches.
    largest, smallest
        Sizes in points.

    Examples
    --------
    >>> fitting(["a long label", "short"], 0.5, 0.2, largest=10, smallest=6)[0]
    'short'
    """
    for text in texts:
        lines = text.split("\n")
        longest = max(len(line) for line in lines)
        # A letter is about 0.58 of its size wide, a line 1.3 high; 72 points make an inch.
        size = min(0.92 * width * 72 / (0.58 * longest), 0.92 * height * 72 / (1.3 * len(lines)), largest)
        if size >= smallest:
            return text, size
    return "", smallest


def lighten(axes: Axes) -> None:
    """Take away the frame and the ticks that say nothing on a bar chart, and write small."""
    axes.xaxis.label.set_fontsize(9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, length=3, labelsize=8.5)
    axes.tick_params(axis="y", length=0)
