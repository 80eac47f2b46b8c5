"""GPU types: data sheet, price and efficiencies, each number with where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.cluster.measured import measured_path, read_fitted
from planner.cost.measured import kernel_surfaces, lender_of
from planner.report.terminal import block, data_table, heading, styled_provenance
from planner.report.words import format_bandwidth, format_error, format_number, format_share
from planner.units import format_bytes, format_seconds

_FAMILIES: Final = ("gemm", "attention", "collectives", "moe", "mla")

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Curve, DeviceProfile, Quantity
    from planner.profiling.tables import MeasuredTable

__all__ = ["device_report", "device_table", "measured_tables"]


def device_table(devices: Sequence[DeviceProfile]) -> Table:
    """List GPU types, one line each."""
    columns = ["name", "title", ">memory", ">bandwidth", ">16-bit FLOP/s", ">USD/h", "efficiency"]
    return data_table(columns, [_line(device) for device in devices], fold=("title",))


def _line(device: DeviceProfile) -> list[str | Text]:
    dense = device.flops.get("bf16", device.flops.get("fp16"))
    price = device.price_per_hour
    return [
        device.name,
        device.title,
        format_bytes(device.memory.value),
        format_bandwidth(device.memory_bandwidth.value),
        "" if dense is None else _tera(dense.value),
        "" if price is None else f"{price.value:.2f}",
        styled_provenance(device.efficiency.kind),
    ]


def device_report(device: DeviceProfile, tables: Sequence[MeasuredTable] = ()) -> RenderableType:
    """Describe one GPU type with all sources.

    Parameters
    ----------
    device
        The GPU type.
    tables
        What was measured on it.
    """
    facts = {
        "name": device.name,
        "also": ", ".join(device.aliases) or "none",
        "vendor": device.vendor,
        "released": device.released or "not known",
        "capability": device.compute_capability or "none",
        "link": device.link + (f", host {device.pcie}" if device.pcie else ""),
    }
    if device.note:
        facts["note"] = device.note
    efficiency = device.efficiency
    parts: list[RenderableType] = [heading(device.title), block(facts), _numbers(device), heading("Efficiency")]
    parts += [block({"source": efficiency.source, "date": efficiency.date}), _curves(device)]
    if efficiency.note:
        parts.append(Text(efficiency.note, style="dim"))
    kernels = _kernels(device)
    if kernels.row_count:
        parts += [heading("Measured kernels"), kernels]
    if tables:
        parts += [heading("Measured tables"), measured_tables(tables)]
    return Group(*parts)


def _kernels(device: DeviceProfile) -> Table:
    """Surfaces of kernels that this GPU or a relative was measured with: they come before the curves."""
    rows = []
    for family in _FAMILIES:
        lender = lender_of(device, family)
        if lender is None or (
            lender != device.name and (family == "collectives" or device.efficiency.kind == "measured")
        ):
            continue  # links are lent by name, and measurements of one's own come first
        file, surfaces = read_fitted(measured_path(lender, family))
        errors = [one.error for one in kernel_surfaces(device, family).values()]
        low, high = format_error(min(errors)), format_error(max(errors))
        rows.append(
            [
                family,
                str(len(surfaces)),
                low if low == high else f"{low} to {high}",
                styled_provenance(file.kind if lender == device.name else "estimated"),
                file.date,
                file.source if lender == device.name else f"of {lender}: {file.source}",
            ]
        )
    return data_table(["family", ">surfaces", ">error", "kind", "date", "source"], rows, fold=("source",))


def measured_tables(tables: Sequence[MeasuredTable]) -> Table:
    """List measured tables, one line each."""
    rows: list[list[str | Text]] = [
        [
            table.kind.name,
            table.origin.title,
            f"{len(table):,}",
            styled_provenance(table.origin.kind),
            table.origin.date,
            table.origin.source,
        ]
        for table in tables
    ]
    return data_table(["table", "what", ">rows", "kind", "date", "source"], rows, fold=("what", "source"))


def _numbers(device: DeviceProfile) -> Table:
    rows = [
        _number("memory", format_bytes(device.memory.value), device.memory),
        _number("memory bandwidth", format_bandwidth(device.memory_bandwidth.value), device.memory_bandwidth),
        *(_number(f"{dtype}, dense", _tera(number.value), number) for dtype, number in device.flops.items()),
    ]
    if device.power is not None:
        rows.append(_number("power", f"{device.power.value:g} W", device.power))
    if device.price_per_hour is not None:
        rows.append(_number("price", f"{device.price_per_hour.value:.2f} USD/h", device.price_per_hour))
    return data_table(["number", ">value", ">error", "kind", "date", "source"], rows, fold=("source",))


def _number(name: str, value: str, number: Quantity) -> list[str | Text]:
    error = "" if number.error is None else format_error(number.error)
    return [name, value, error, styled_provenance(number.kind), number.date, number.source]


def _curves(device: DeviceProfile) -> Table:
    efficiency = device.efficiency
    rows = [
        *(
            _curve(f"GEMM {dtype}, of the roofline", "tokens", curve)
            for dtype, curve in sorted(efficiency.gemm.items())
        ),
        _curve("prefill attention, of peak FLOP/s", "tokens", efficiency.prefill_attention),
        _curve("decode attention, of peak bandwidth", "KV bytes", efficiency.decode_attention),
        _number_row(
            "decode attention, at least",
            format_seconds(efficiency.decode_attention_floor.value),
            efficiency.decode_attention_floor,
        ),
        _number_row(
            "elementwise, of peak bandwidth", format_share(efficiency.elementwise.value), efficiency.elementwise
        ),
    ]
    for gpus, reduce in sorted(efficiency.all_reduce.items()):
        value = f"{format_bandwidth(reduce.bandwidth.value)} bus, {format_seconds(reduce.latency.value)}"
        rows.append(_number_row(f"all-reduce of {gpus} GPUs", value, reduce.bandwidth))
    return data_table(["efficiency", "reaches", ">error", "kind", "date"], rows, fold=("efficiency", "reaches"))


def _curve(name: str, unit: str, curve: Curve) -> list[str | Text]:
    """Summarise a curve by its ends."""
    value = f"{format_share(curve.y[0])} at {_short(curve.x[0])} {unit}"
    if len(curve.x) > 1:
        value += f" to {format_share(curve.y[-1])} at {_short(curve.x[-1])}"
    return [name, value, format_error(curve.error), styled_provenance(curve.kind), curve.date]


def _number_row(name: str, value: str, number: Quantity) -> list[str | Text]:
    error = "" if number.error is None else format_error(number.error)
    return [name, value, error, styled_provenance(number.kind), number.date]


def _tera(value: float) -> str:
    return f"{format_number(value / 1e12)} TFLOP/s"


def _short(value: float) -> str:
    for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{format_number(value / factor)} {prefix}"
    return format_number(value)
