"""Whether a measured table can be true: held against the data sheet of its GPU, and against itself.

What is faster than the hardware, or a round factor off what it should be, is most likely a wrong unit. That is refused,
with the suspicion; what is merely odd comes back as a warning.

Legend: N row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cluster import list_devices, load_device, load_link
from planner.dtypes import DTYPE_BYTES
from planner.errors import InputError
from planner.model import list_models, load_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.cluster import DeviceProfile
    from planner.profiling.tables import MeasuredTable

    Array = NDArray[np.float64]

__all__ = ["check", "faster_than_hardware_N"]

_FASTER: Final = 1.1  # a measurement may beat the data sheet by its own error, and no more
# So few rows may lie so far beyond the data sheet before the table is refused: outliers of large tables.
_OUTLIERS: Final = 0.01
_OUTLIER: Final = 2.5
# Rows that move this little may come out of a cache; their bandwidth says nothing.
_LEAST_BYTES: Final = 256e6
_LEAST_MESSAGE: Final = 1e6
# Below this share of what the hardware can do, at the best row of a table, the table is in another unit.
_SLOWEST: Final = 1.0 / 200.0
# Profiles of PCIe say what GPUs reach between each other, which a good host beats.
_OVER_LINK: Final = 1.25
_SHRINKS: Final = 0.8  # a larger problem may take this share of a smaller one's time: noise
_WARNED: Final = 0.02  # share of neighbouring rows that may shrink without a word

_SUSPICIONS: Final = (
    (1e6, "seconds written as microseconds, or bytes/s as MB/s?"),
    (1024.0, "KiB for bytes, or milliseconds for seconds?"),
    (1000.0, "milliseconds for seconds?"),
    (8.0, "bits for bytes?"),
)
_NEAR: Final = 3.0  # how far off a suspicion may be: a data sheet is not reached


@dataclass(frozen=True, slots=True)
class _Rate:
    """What rows did per second, what the hardware allows, and how far beyond a usual measurement that is."""

    what: str
    unit: str
    done_N: Array
    limit_N: Array
    counts_N: NDArray[np.bool_]
    slack: float = 1.0


def check(table: MeasuredTable, *, where: str, places: Sequence[str] = (), lenient: bool = False) -> tuple[str, ...]:
    """Hold a table against what its GPU can do, and its rows against each other.

    Parameters
    ----------
    table
        The measurements.
    where
        What they were read from, for messages.
    places
        File and line of each row, for messages; empty says `where` and the number of the row.
    lenient
        Whether what would be refused comes back as something odd instead.

    Returns
    -------
    tuple of str
        What is odd, for a person to look at.

    Raises
    ------
    InputError
        If a row is faster than the hardware, or all are a factor off: names the row, and the unit that is likely wrong.
    """

    def place(row: int) -> str:
        return places[row] if places else f"{where}:{row + 1}"

    name = table.origin.device
    odd: list[str] = []
    checks: list[Callable[[], list[str]]] = [lambda: _shrinking(table, place)]
    if name in list_devices():
        device = load_device(name)
        checks = [*(partial(_hold, rate, device, place) for rate in _rates(table, device)), *checks]
    for one in checks:
        try:
            odd += one()
        except InputError as error:
            if not lenient:
                raise
            odd.append(f"{error.where}: {error.what}")
    return tuple(odd)


def faster_than_hardware_N(table: MeasuredTable) -> NDArray[np.bool_]:
    """Which rows of a table beat the data sheet of their GPU: a fault in a published table, if they are few."""
    beats_N = np.zeros(len(table), dtype=bool)
    if table.origin.device in list_devices():
        for rate in _rates(table, load_device(table.origin.device)):
            beats_N |= rate.counts_N & (rate.done_N > _FASTER * rate.limit_N)
    return beats_N


def _hold(rate: _Rate, device: DeviceProfile, place: Callable[[int], str]) -> list[str]:
    """Hold one rate against the data sheet; a few rows slightly beyond it are noise, and told."""
    if not rate.counts_N.any():
        return []
    share_N = np.where(rate.counts_N, rate.done_N / rate.limit_N, np.nan)
    best = int(np.nanargmax(share_N))
    share = float(share_N[best])
    if _SLOWEST / rate.slack <= share <= _FASTER:
        return []
    beyond = int((share_N > _FASTER).sum())
    if 1.0 < share <= _OUTLIER and beyond <= _OUTLIERS * rate.counts_N.sum():
        return [
            f"{beyond} of {int(rate.counts_N.sum())} rows are faster than the data sheet, {place(best)} "
            f"{share:.2f} times: noise?"
        ]
    told = f"{share:.3g} times the data sheet" if share > 1 else f"1/{1 / share:.3g} of the data sheet at best"
    raise InputError(
        f"{rate.what} of {rate.done_N[best]:.4g} {rate.unit}, {told}",
        where=place(best),
        field="peak" if rate.what == "a peak bandwidth" else "seconds",
        expected=f"at most {rate.limit_N[best]:.4g} {rate.unit} on {device.name}",
        hint=f"{_suspicion(share * rate.slack)}; --implausible takes it as it is",
    )


def _suspicion(share: float) -> str:
    """Name the unit that a factor hints at.

    Examples
    --------
    >>> _suspicion(700.0)
    'about 1000 times off: milliseconds for seconds? SI units are expected: seconds, bytes, bytes/s'
    """
    off = max(share, 1.0 / share)
    told = "check the GPU type (--device) and the units: seconds, bytes, bytes/s"
    near = [(abs(np.log(off / factor)), factor, what) for factor, what in _SUSPICIONS if factor != 1024.0]
    distance, factor, what = min(near)
    if abs(off / 1024.0 - 1.0) < 0.005:
        distance, factor, what = 0.0, 1024.0, _SUSPICIONS[1][1]
    if distance <= np.log(_NEAR):
        return f"about {factor:g} times off: {what} SI units are expected: seconds, bytes, bytes/s"
    return told


def _rates(table: MeasuredTable, device: DeviceProfile) -> list[_Rate]:
    reader = _READERS.get(table.kind.name)
    return [] if reader is None else reader(table, device)


def _peak(dtypes: NDArray[Any], device: DeviceProfile) -> Array:
    """FLOP/s that each row may reach: the format's own, or the best of the GPU where it has no units for it."""
    best = max(quantity.value for quantity in device.flops.values())
    known = {str(dtype): quantity.value for dtype, quantity in device.flops.items()}
    return np.array([known.get(str(dtype), best) for dtype in dtypes])


def _bytes_of(dtypes: NDArray[Any]) -> Array:
    sizes: dict[str, float] = {str(dtype): size for dtype, size in DTYPE_BYTES.items()}
    return np.array([sizes.get(str(dtype), min(sizes.values())) for dtype in dtypes])


def _gemm(table: MeasuredTable, device: DeviceProfile) -> list[_Rate]:
    m, n, k = (table[name].astype(float) for name in "mnk")
    flops_N = 2.0 * m * n * k / table["seconds"]
    weights_N = n * k * _bytes_of(table["dtype"])
    everything = np.ones(len(table), dtype=bool)
    return [
        _Rate("a matrix product", "FLOP/s", flops_N, _peak(table["dtype"], device), everything),
        _memory(weights_N / table["seconds"], device, weights_N >= _LEAST_BYTES),
    ]


def _memory(done_N: Array, device: DeviceProfile, counts_N: NDArray[np.bool_]) -> _Rate:
    limit_N = np.full(len(done_N), device.memory_bandwidth.value)
    return _Rate("a memory bandwidth", "bytes/s", done_N, limit_N, counts_N)


def _prefill(table: MeasuredTable, device: DeviceProfile) -> list[_Rate]:
    tokens, context = table["tokens"].astype(float), table["context"].astype(float)
    seen = context + tokens / 2.0
    window = table["window"].astype(float)
    whole = np.maximum(2.0 * seen, 1.0)  # the tokens before a window is full see fewer
    seen = np.where((window > 0) & (whole > window), window - window**2 / (2.0 * whole), seen)
    # With a KV cache of 8 bits, kernels may multiply in 8 bits, whatever the rest of the model does.
    peak_N = np.maximum(_peak(table["dtype"], device), _peak(table["kv_dtype"], device))
    flops_N = 4.0 * table["batch"] * tokens * seen * table["heads"] * table["head_dim"] / table["seconds"]
    return [
        _Rate("attention", "FLOP/s", flops_N, peak_N, np.ones(len(table), dtype=bool)),
    ]


def _decode(table: MeasuredTable, device: DeviceProfile) -> list[_Rate]:
    context, window = table["context"].astype(float), table["window"].astype(float)
    seen = np.where(window > 0, np.minimum(context, window), context)
    size_N = 2.0 * table["batch"] * seen * table["kv_heads"] * table["head_dim"] * _bytes_of(table["kv_dtype"])
    return [_memory(size_N / table["seconds"], device, size_N >= _LEAST_BYTES)]


def _copy(table: MeasuredTable, device: DeviceProfile) -> list[_Rate]:
    moved = table["bytes"].astype(float)
    inside = table["direction"] == "device"
    rates = [_memory(2.0 * moved / table["seconds"], device, inside & (moved >= _LEAST_BYTES))]
    if device.pcie is not None:
        host = np.isin(table["direction"], ("host_to_device", "device_to_host")) & (moved >= _LEAST_MESSAGE)
        link = max(load_link(device.pcie).bandwidth.value, load_link(device.link).bandwidth.value)
        # The profile of PCIe is what GPUs reach between each other; a host copy gets up to the specification.
        rates.append(_Rate("a host copy", "bytes/s", moved / table["seconds"], np.full(len(table), 2.0 * link), host))
    return rates


def _collective(table: MeasuredTable, device: DeviceProfile) -> list[_Rate]:
    gpus = table["gpus"].astype(float)
    share = (gpus - 1.0) / gpus
    operation = table["operation"]
    factor = np.where(operation == "all_reduce", 2.0 * share, np.where(operation == "send_recv", 1.0, share))
    # In-switch reduction halves what a link carries: bus bandwidth may then seem to be twice the link.
    limit = (
        _links(device)
        * _OVER_LINK
        * np.where(np.isin(operation, ("all_reduce", "reduce_scatter", "all_gather")), 2.0, 1.0)
    )
    done_N = factor * table["bytes"] / table["seconds"]
    counts = (table["bytes"] >= _LEAST_MESSAGE) & (table["nodes"] == 1)
    return [_Rate("a bus bandwidth", "bytes/s", done_N, limit, counts, slack=2.0 * _OVER_LINK)]


def _links(device: DeviceProfile) -> float:
    names = [device.link] + ([device.pcie] if device.pcie else [])
    return max(load_link(name).bandwidth.value for name in names)


def _link_fit(table: MeasuredTable, device: DeviceProfile) -> list[_Rate]:
    inside = table["scope"] == "node"
    bridge = load_link("nvlink_bridge_3090").bandwidth.value  # consumer cards may be joined by one
    limit = np.full(len(table), max(_links(device) * _OVER_LINK, bridge))
    return [_Rate("a peak bandwidth", "bytes/s", table["peak"], limit, inside, slack=_OVER_LINK)]


def _training(table: MeasuredTable, device: DeviceProfile) -> list[_Rate]:
    size_N, layers_N = _layer_sizes(table["model"])
    inner = (table["layer"] >= 1) & (table["layer"] <= layers_N) & (table["seq_len"] > 0)
    tokens = table["microbatch"].astype(float) * table["seq_len"]
    flops_N = 6.0 * size_N * tokens / table["tp"] / np.maximum(table["forward"] + table["backward"], 1e-9)
    return [_Rate("a layer", "FLOP/s", flops_N, _best(table, device), inner & (size_N > 0))]


def _serving(table: MeasuredTable, device: DeviceProfile) -> list[_Rate]:
    size_N, layers_N = _layer_sizes(table["model"])
    if table.kind.name == "serving_iteration":
        size_N = size_N * layers_N
    prefill = table["phase"] == "prefill"
    tokens = np.where(prefill, table["batch"].astype(float) * table["tokens"], table["batch"])
    flops_N = 2.0 * size_N * tokens / table["tp"] / table["seconds"]
    read_N = 2.0 * size_N / table["tp"]
    return [
        _Rate("a layer", "FLOP/s", flops_N, _best(table, device), prefill & (size_N > 0)),
        _memory(read_N / table["seconds"], device, read_N >= _LEAST_BYTES),
    ]


def _best(table: MeasuredTable, device: DeviceProfile) -> Array:
    return np.full(len(table), max(quantity.value for dtype, quantity in device.flops.items() if "16" in dtype))


def _layer_sizes(models: NDArray[Any]) -> tuple[Array, Array]:
    """Weights that a token multiplies with in one layer, and the layers of the model; 0 where it does not ship."""
    known: dict[str, tuple[float, float]] = {}
    for name in dict.fromkeys(models.tolist()):
        known[name] = (0.0, 0.0)
        if name in list_models():
            model = load_model(name)
            gemms = model.kinds[0].gemms
            known[name] = float(sum(g.n * g.k * min(g.top_k, g.experts) for g in gemms)), float(model.num_layers)
    return np.array([known[name][0] for name in models]), np.array([known[name][1] for name in models])


_READERS: Final[dict[str, Callable[[Any, Any], list[_Rate]]]] = {
    "gemm": _gemm,
    "prefill_attention": _prefill,
    "decode_attention": _decode,
    "copy": _copy,
    "collective": _collective,
    "link_fit": _link_fit,
    "training_layer": _training,
    "serving_layer": _serving,
    "serving_iteration": _serving,
}

# Along which column a table grows, and what its times are.
_GROWTH: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "gemm": ("m", ("seconds",)),
    "prefill_attention": ("tokens", ("seconds",)),
    "decode_attention": ("context", ("seconds",)),
    "collective": ("bytes", ("seconds",)),
    "copy": ("bytes", ("seconds",)),
    "serving_layer": ("tokens", ("seconds",)),
    "serving_iteration": ("tokens", ("seconds",)),
    "training_layer": ("microbatch", ("forward", "backward")),
}


def _shrinking(table: MeasuredTable, place: Callable[[int], str]) -> list[str]:
    """Rows that take less time than a smaller problem: noise where few, a mistake where many."""
    found: list[str] = []
    if table.kind.name not in _GROWTH:
        return found
    size, times = _GROWTH[table.kind.name]
    others = [column.name for column in table.kind.settings if column.name != size]
    order = np.lexsort((table[size], *(_codes(table[name]) for name in others)))
    same = np.ones(len(order) - 1, dtype=bool)
    for name in others:
        same &= table[name][order[1:]] == table[name][order[:-1]]
    same &= table[size][order[1:]] > table[size][order[:-1]]
    if not same.any():
        return found
    for time in times:
        shorter = same & (table[time][order[1:]] < _SHRINKS * table[time][order[:-1]])
        share = float(shorter.sum() / same.sum())
        first = int(order[1:][np.argmax(shorter)])
        if share > 0.5:
            raise InputError(
                f"{time} shrinks with {size} in {share:.0%} of the steps",
                where=place(first),
                field=time,
                expected=f"times that grow with {size}",
                hint="the columns may be mixed up, or hold rates where times belong",
            )
        if share > _WARNED:
            found.append(
                f"{time} shrinks by more than {1 - _SHRINKS:.0%} while {size} grows, in {int(shorter.sum())} of "
                f"{int(same.sum())} steps, first at {place(first)}: noise?"
            )
    return found


def _codes(values: NDArray[Any]) -> NDArray[Any]:
    return np.unique(values, return_inverse=True)[1]
