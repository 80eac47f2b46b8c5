"""Numbers, GPUs and layers as people write them."""

from __future__ import annotations

import shlex
from itertools import groupby
from typing import TYPE_CHECKING

from planner.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from planner.cluster import Cluster, Link
    from planner.plan import Figure, Plan

__all__ = [
    "billions",
    "count_of",
    "format_arguments",
    "format_bandwidth",
    "format_error",
    "format_figure",
    "format_gpus",
    "format_layers",
    "format_link",
    "format_memory",
    "format_number",
    "format_share",
    "format_types",
    "model_names",
]

_DECIMAL = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_GIB = 2.0**30


def format_number(value: float) -> str:
    """Write a number with three or four digits that count, thousands apart.

    Examples
    --------
    >>> format_number(12345.6), format_number(7.8934), format_number(0.01234), format_number(16.0)
    ('12,346', '7.89', '0.0123', '16')
    """
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def format_figure(figure: Figure) -> str:
    """Write a figure with its unit.

    Examples
    --------
    >>> from planner.plan import Figure
    >>> format_figure(Figure(value=0.098, unit="s", error=0.1, provenance="fitted"))
    '98.0 ms'
    >>> format_figure(Figure(value=48.432, unit="USD/h", error=0.0, provenance="spec"))
    '48.43 USD/h'
    """
    value, unit = figure.value, figure.unit
    if unit == "s":
        return format_seconds(value)
    if unit == "bytes":
        return format_bytes(value)
    if unit == "fraction":
        return f"{value:.1%}".replace("%", " %")
    if unit.startswith("USD"):
        # Cents count, except where a price is far below one (the cost of one iteration).
        return f"{value:,.2f} {unit}" if abs(value) >= 0.1 else f"{value:.3g} {unit}"
    return f"{format_number(value)} {unit}"


def format_error(error: float) -> str:
    """Write a relative error.

    Examples
    --------
    >>> format_error(0.113), format_error(0.0)
    ('± 11 %', 'exact')
    """
    if error == 0:
        return "exact"
    percent = error * 100
    return f"± {percent:.0f} %" if percent >= 1 else f"± {percent:.1g} %"


def format_share(share: float) -> str:
    """Write a fraction in percent, two or three digits that count.

    Examples
    --------
    >>> format_share(0.893), format_share(0.00052), format_share(1.0)
    ('89 %', '0.052 %', '100 %')
    """
    percent = share * 100
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.2g} %"


def count_of(number: int, what: str) -> str:
    """Write how many of something, ``1 GPU`` or ``3 GPUs``.

    Examples
    --------
    >>> count_of(1, "GPU"), count_of(1200, "request")
    ('1 GPU', '1,200 requests')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def format_memory(used: float, limit: float) -> str:
    """Write memory used against memory there, in GiB.

    Examples
    --------
    >>> format_memory(22.4 * 2**30, 73.6 * 2**30)
    '22.4 of 73.6'
    """
    return f"{used / _GIB:.1f} of {limit / _GIB:.1f}"


def format_layers(layers: tuple[int, int]) -> str:
    """Write a range of layers, both ends included, and how many they are.

    Examples
    --------
    >>> format_layers((0, 39)), format_layers((5, 6))
    ('0-38 (39)', '5 (1)')
    """
    first, end = layers
    span = f"{first}-{end - 1}" if end - first > 1 else f"{first}"
    return f"{span} ({end - first})"


def format_gpus(gpus: Sequence[str]) -> str:
    """Write GPUs in their order, neighbours as ranges.

    Examples
    --------
    >>> format_gpus(["a100-0/0", "a100-0/1", "a100-0/2", "l4-1/3", "l4-1/1"])
    'a100-0/0-2 + l4-1/3 + l4-1/1'
    """
    ranges: list[tuple[str, int, int]] = []
    for gpu in gpus:
        node, _, text = gpu.rpartition("/")
        index = int(text) if text.isdigit() else -1
        if ranges and ranges[-1][0] == node and ranges[-1][2] + 1 == index > 0:
            ranges[-1] = (node, ranges[-1][1], index)
        else:
            ranges.append((node, index, index))
    return " + ".join(f"{node}/{first}" + (f"-{last}" if last > first else "") for node, first, last in ranges)


def format_types(cluster: Cluster, gpus: Iterable[str]) -> str:
    """Write which GPU types these are; with counts where they are several.

    Examples
    --------
    >>> from planner.cluster import load_cluster
    >>> format_types(load_cluster("a100-l40s-l4-24"), ["a100-0/0", "l4-0/0", "l4-0/1"])
    '1 a100_sxm_80 + 2 l4'
    """
    names = [cluster.device_of(gpu).name for gpu in gpus]
    counted = [(name, len(list(same))) for name, same in groupby(sorted(names, key=list(dict.fromkeys(names)).index))]
    if len(counted) == 1:
        return counted[0][0]
    return " + ".join(f"{count} {name}" for name, count in counted)


def format_bandwidth(value: float) -> str:
    """Write bytes per second, decimal prefixes.

    Examples
    --------
    >>> format_bandwidth(12.5e9), format_bandwidth(float("inf"))
    ('12.5 GB/s', 'no limit')
    """
    if value == float("inf"):
        return "no limit"
    for prefix, factor in _DECIMAL:
        if value >= factor:
            return f"{format_number(value / factor)} {prefix}B/s"
    return f"{format_number(value)} B/s"


def format_link(link: Link) -> str:
    """Write a link: bandwidth and latency.

    Examples
    --------
    >>> from planner.cluster import Link
    >>> format_link(Link(bandwidth="100 Gb/s", latency="10 us"))
    '12.5 GB/s, 10.0 us'
    """
    return f"{format_bandwidth(link.bandwidth)}, {format_seconds(link.latency)}"


def billions(count: float) -> str:
    """Write a number of parameters.

    Examples
    --------
    >>> billions(70.554e9), billions(671.03e9), billions(124e6)
    ('70.6 B', '671 B', '124 M')
    """
    if count < 1e9:
        return f"{count / 1e6:.0f} M"
    return f"{count / 1e9:.0f} B" if count >= 100e9 else f"{count / 1e9:.1f} B"


def format_arguments(arguments: Mapping[str, int | float | str]) -> str:
    """Write what an engine is told as on a command line, quoted for a shell, environment variables first.

    Examples
    --------
    >>> format_arguments({"--tensor-parallel-size": 4, "--sequence-parallel": "", "VLLM_PP_LAYER_PARTITION": "39,41"})
    'VLLM_PP_LAYER_PARTITION=39,41 --tensor-parallel-size 4 --sequence-parallel'
    """
    variables = [f"{name}={shlex.quote(str(value))}" for name, value in arguments.items() if not name.startswith("-")]
    flags = [
        name if value == "" else f"{name} {shlex.quote(str(value))}"
        for name, value in arguments.items()
        if name.startswith("-")
    ]
    return " ".join((*variables, *flags))


def model_names(plan: Plan) -> str:
    """Name the model of a plan, or all that share its cluster."""
    served = getattr(plan.inputs, "served", None)
    return plan.inputs.model.name if served is None else ", ".join(one.model.name for one in served)
