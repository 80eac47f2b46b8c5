"""The roofline of a GPU type, and how close its kernels come to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cost.device import DeviceOperators
from planner.cost.measured import lender_of
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.report.plots.placed import INK, MUTED, need_matplotlib, new_figure
from planner.report.words import format_bandwidth, format_error, format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from planner.cluster import DeviceProfile
    from planner.plan.figure import Provenance

    Array = NDArray[np.float64]

__all__ = ["Kernels", "kernels_of", "plot_roofline"]

_ENGINE: Final = "vllm"
_WIDTH: Final = 8192.0  # of the square weight matrix whose products are drawn
_TOKENS: Final[Array] = np.power(2.0, np.arange(0, 15))
_HEADS, _KV_HEADS, _HEAD_DIM = 64, 8, 128  # of the attention that is drawn: Llama 3 70B's
_PROMPTS: Final[Array] = np.power(2.0, np.arange(7, 15))
_BATCHES: Final[Array] = np.power(2.0, np.arange(0, 9))
_CONTEXT: Final = 4096.0

# "Muted" of P. Tol, "Colour schemes", SRON/EPS/TN/09-002, 2021.
_HUES: Final[dict[str, str]] = {
    "bf16": "#332288",
    "fp16": "#332288",
    "fp8": "#CC6677",
    "int8": "#999933",
    "nvfp4": "#117733",
    "fp32": "#882255",
}
_ATTENTION: Final = {"prefill attention": ("#AA4499", "^"), "decode attention": ("#44AA99", "D")}
_PROVENANCE: Final = {"measured": "measured", "fitted": "fitted"}


@dataclass(frozen=True, slots=True)
class Kernels:
    """One kind of kernel at several sizes.

    Parameters
    ----------
    name
        For the legend.
    dtype
        Format that is multiplied in; None for attention.
    intensity_N, rate_N
        FLOP per byte moved at least once, and FLOP/s reached.
    error, provenance
        Of the rate.
    sizes
        Smallest and largest, in words.
    """

    name: str
    dtype: Dtype | None
    intensity_N: Array
    rate_N: Array
    error: float
    provenance: Provenance
    sizes: tuple[str, str]


def kernels_of(device: DeviceProfile) -> tuple[Kernels, ...]:
    """Price matrix products and attention of a GPU type as the cost model does, over sizes.

    Parameters
    ----------
    device
        The GPU type.

    Returns
    -------
    tuple of Kernels
        Matrix products of the formats that it has units for, prefill and decode attention.
    """
    operators = DeviceOperators(device, _ENGINE)
    found = [_gemm(operators, dtype) for dtype in _formats(device)]
    return (*found, _prefill(operators), _decode(operators))


def _formats(device: DeviceProfile) -> list[Dtype]:
    """Formats to draw: one of the two 16-bit ones, and what multiplies faster."""
    sixteen: list[Dtype] = ["bf16" if "bf16" in device.flops else "fp16"]
    faster: list[Dtype] = ["fp8", "nvfp4"]
    return [dtype for dtype in sixteen + faster if dtype in device.flops]


def _gemm(operators: DeviceOperators, dtype: Dtype) -> Kernels:
    flops_N = 2.0 * _TOKENS * _WIDTH**2
    moved_N = _WIDTH**2 * DTYPE_BYTES[dtype] + 2.0 * _TOKENS * _WIDTH * DTYPE_BYTES["bf16"]
    seconds_N = operators.gemm(_TOKENS, _WIDTH, _WIDTH, dtype, "bf16")
    error, provenance = operators.band("gemm", dtype)
    return Kernels(
        f"matrix products, {dtype}", dtype, flops_N / moved_N, flops_N / seconds_N, error, provenance,
        ("1 token", f"{_TOKENS[-1]:,.0f}"),
    )  # fmt: skip


def _prefill(operators: DeviceOperators) -> Kernels:
    width = float(_HEADS * 2 * _HEAD_DIM)
    seconds_N = operators.prefill_attention(_PROMPTS, _PROMPTS / 2.0, width, heads=_HEADS, kv_heads=_KV_HEADS)
    flops_N = 2.0 * _PROMPTS * _PROMPTS / 2.0 * width
    moved_N = 2.0 * _PROMPTS * (width + 2.0 * _KV_HEADS * _HEAD_DIM)  # queries, results, keys and values in 16 bit
    error, provenance = operators.band("prefill_attention")
    return Kernels(
        "prefill attention", None, flops_N / moved_N, flops_N / seconds_N, error, provenance,
        (f"{_PROMPTS[0]:.0f} tokens", f"{_PROMPTS[-1]:,.0f}"),
    )  # fmt: skip


def _decode(operators: DeviceOperators) -> Kernels:
    kv_bytes = 2.0 * 2.0 * _KV_HEADS * _HEAD_DIM
    width = float(_HEADS * 2 * _HEAD_DIM)
    context_N = np.full_like(_BATCHES, _CONTEXT)
    seconds_N = operators.decode_attention(_BATCHES, context_N, kv_bytes, width, heads=_HEADS, kv_heads=_KV_HEADS)
    flops_N = 2.0 * _BATCHES * _CONTEXT * width
    moved_N = _BATCHES * (_CONTEXT * kv_bytes + 2.0 * width)
    error, provenance = operators.band("decode_attention")
    return Kernels(
        "decode attention", None, flops_N / moved_N, flops_N / seconds_N, error, provenance,
        ("1 sequence", f"{_BATCHES[-1]:.0f}"),
    )  # fmt: skip


def plot_roofline(device: DeviceProfile) -> Figure:
    """Draw what a GPU type can reach by data sheet, and what its kernels reach.

    The lines are the roofline: memory bandwidth times FLOP per byte, up to the peak of each format; a ring marks the
    ridge, from where on a kernel is bound by compute. Filled marks rest on measurements of this GPU type, hollow ones
    on a relative's or a default; the band around them is the relative error.

    Parameters
    ----------
    device
        The GPU type.

    Raises
    ------
    InputError
        If matplotlib is missing.
    """
    need_matplotlib()
    kernels = kernels_of(device)
    bandwidth = device.memory_bandwidth.value
    formats = [dtype for dtype in (*_formats(device), "fp32") if dtype in device.flops]
    peaks = {dtype: device.flops[dtype].value for dtype in formats}
    picture = new_figure(9.2, 6.2)
    axes = picture.add_axes((0.085, 0.235, 0.745, 0.65))
    low = min(0.5, *(float(one.intensity_N.min()) / 2.0 for one in kernels))
    high = max(3.0 * max(peaks.values()) / bandwidth, *(1.6 * float(one.intensity_N.max()) for one in kernels))
    bottom = min(low * bandwidth, *(float(one.rate_N.min()) for one in kernels)) / 1.6
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(bottom, 2.2 * max(peaks.values())))
    _roofs(axes, peaks, bandwidth, low, high)
    for one in kernels:
        peak = peaks[one.dtype] if one.dtype is not None else peaks[formats[0]]
        _points(axes, one, np.minimum(one.intensity_N * bandwidth, peak))
    _style(axes)
    axes.set_title(_title(device), fontsize=10.5, color=INK, loc="left", linespacing=1.35)
    _legend(picture, kernels)
    return picture


def _title(device: DeviceProfile) -> str:
    facts = f"{format_bandwidth(device.memory_bandwidth.value)} memory"
    return f"{device.title}: roofline by data sheet, and what kernels reach\n{facts}; {_basis(device)}"


def _basis(device: DeviceProfile) -> str:
    lender = lender_of(device, "gemm")
    if lender == device.name:
        return "kernels measured on this GPU type"
    if lender is not None and device.efficiency.kind != "measured":
        return f"kernels estimated from those of {lender}"
    return f"efficiencies {device.efficiency.kind}"


def _roofs(axes: Axes, peaks: dict[Any, float], bandwidth: float, low: float, high: float) -> None:
    ridge = max(peaks.values()) / bandwidth
    axes.plot([low, ridge], [low * bandwidth, max(peaks.values())], color=MUTED, linewidth=1.6, zorder=2)
    for dtype, peak in peaks.items():
        hue = _HUES.get(dtype, INK)
        at = peak / bandwidth
        axes.plot([at, high], [peak, peak], color=hue, linewidth=1.6, zorder=2)
        axes.plot([at], [peak], marker="o", markersize=6.5, markerfacecolor="white", markeredgecolor=hue, zorder=4)
        axes.annotate(
            f"{dtype} {format_number(peak / 1e12)} TFLOP/s\nridge at {format_number(round(at))} FLOP/B",
            (high, peak), xytext=(5, 0), textcoords="offset points", ha="left", va="center", fontsize=8, color=hue,
            annotation_clip=False, linespacing=1.25,
        )  # fmt: skip


def _points(axes: Axes, one: Kernels, roof_N: Array) -> None:
    hue, mark = (_HUES[one.dtype], "o") if one.dtype is not None else _ATTENTION[one.name]
    own = one.provenance in _PROVENANCE
    low_N, high_N = one.rate_N * (1.0 - min(one.error, 0.95)), one.rate_N * (1.0 + one.error)
    axes.fill_between(
        one.intensity_N, low_N, np.minimum(high_N, np.maximum(roof_N, one.rate_N)), color=hue, alpha=0.10, linewidth=0,
        zorder=1,
    )  # fmt: skip
    axes.plot(
        one.intensity_N, one.rate_N, color=hue, marker=mark, markersize=4.6, linewidth=0.8, alpha=0.95, zorder=3,
        markerfacecolor=hue if own else "white", markeredgecolor=hue, markeredgewidth=0.9,
    )  # fmt: skip


def _style(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xlabel("arithmetic intensity, FLOP per byte moved", fontsize=9, color=INK)
    axes.set_ylabel("TFLOP/s", fontsize=9, color=INK)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e12:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10, numticks=12))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", colors=INK, labelsize=8)
    axes.grid(which="major", color="#ececec", linewidth=0.7, zorder=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(picture: Figure, kernels: Sequence[Kernels]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for one in kernels:
        hue, mark = (_HUES[one.dtype], "o") if one.dtype is not None else _ATTENTION[one.name]
        basis = _PROVENANCE.get(one.provenance, "estimated")
        label = f"{one.name}, {one.sizes[0]} to {one.sizes[1]}: {basis}, {format_error(one.error)}"
        face = hue if one.provenance in _PROVENANCE else "white"
        handles.append(
            Line2D([], [], color=hue, marker=mark, markersize=5, linewidth=0.8, markerfacecolor=face, label=label)
        )
    picture.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.075, 0.055), ncols=2, fontsize=8, frameon=False,
        labelcolor=INK, handletextpad=0.5, columnspacing=1.6,
    )  # fmt: skip
    shape = f"{_HEADS} heads, {_KV_HEADS} for keys and values, {_HEAD_DIM} wide"
    told = (
        f"Matrices {_WIDTH:,.0f} x {_WIDTH:,.0f}; attention with {shape}, decoding at {_CONTEXT:,.0f} tokens.\n"
        "Filled marks rest on measurements of this GPU type, hollow ones are estimated; bands are the relative error."
    )
    picture.text(0.085, 0.012, told, fontsize=7.5, color=MUTED, linespacing=1.35)
