"""Units at the edge: text in, SI out, and back for people.

Inside the package every quantity is SI: bytes, seconds, FLOP, bytes/s. People write ``80 GiB``, ``400 Gb/s``
(bits, small b) or ``1.5 ms``; these functions are the only place that knows how.
"""

from __future__ import annotations

import math
import re

__all__ = ["format_bytes", "format_seconds", "parse_quantity"]

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_TIME = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def _table(dimension: str) -> dict[str, float]:
    if dimension == "time":
        return dict(_TIME)
    prefixes = _DECIMAL | _BINARY
    if dimension == "bytes":
        return {f"{p}B": f for p, f in prefixes.items()}
    if dimension == "bandwidth":
        per_byte = {f"{p}B/s": f for p, f in prefixes.items()}
        per_bit = {f"{p}{b}": f / 8 for p, f in _DECIMAL.items() for b in ("b/s", "bit/s", "bps")}
        return per_byte | per_bit
    if dimension == "flops":
        return {f"{p}{u}": f for p, f in _DECIMAL.items() for u in ("FLOP/s", "FLOPS", "FLOPs")}
    raise KeyError(dimension)


_UNITS = {d: _table(d) for d in ("bytes", "bandwidth", "flops", "time")}
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*$")


def parse_quantity(text: str | float, dimension: str) -> float:
    """Read a number with its unit into SI; a bare number is SI already.

    Parameters
    ----------
    text
        ``"80 GiB"``, ``"400 Gb/s"``, ``"1.5 ms"``, ``"312 TFLOP/s"`` or a plain number.
    dimension
        ``"bytes"``, ``"bandwidth"``, ``"flops"`` or ``"time"``.

    Returns
    -------
    float
        The value in bytes, bytes/s, FLOP/s or seconds.

    Raises
    ------
    ValueError
        If there is no number, the unit does not belong to the dimension, or the value is not finite.

    Examples
    --------
    >>> parse_quantity("400 Gb/s", "bandwidth")
    50000000000.0
    >>> parse_quantity("1.5 ms", "time")
    0.0015
    """
    units = _UNITS[dimension]
    if isinstance(text, int | float) and not isinstance(text, bool):
        value = float(text)
    else:
        match = _NUMBER.match(str(text))
        if match is None:
            raise ValueError(f"{text!r} is not a number with a unit; write for example {_example(dimension)}")
        number, unit = match.groups()
        if unit and unit not in units:
            raise ValueError(f"{text!r} has the unit {unit!r}; write for example {_example(dimension)}")
        value = float(number) * (units[unit] if unit else 1.0)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return value


def _example(dimension: str) -> str:
    return {
        "bytes": "'80 GiB' or '500 MB'",
        "bandwidth": "'400 Gb/s' (bits) or '50 GB/s' (bytes)",
        "flops": "'312 TFLOP/s'",
        "time": "'1.5 ms'",
    }[dimension]


def format_bytes(value: float) -> str:
    """Write bytes for people, binary prefixes.

    Examples
    --------
    >>> format_bytes(80 * 2**30)
    '80.0 GiB'
    """
    for prefix, factor in reversed(_BINARY.items()):
        if abs(value) >= factor:
            return f"{value / factor:.1f} {prefix}B"
    return f"{value:.0f} B"


def format_seconds(value: float) -> str:
    """Write a duration for people.

    Examples
    --------
    >>> format_seconds(0.0123), format_seconds(2.5)
    ('12.3 ms', '2.50 s')
    """
    if abs(value) >= 1:
        return f"{value:.2f} s"
    if abs(value) >= 1e-3:
        return f"{value * 1e3:.1f} ms"
    return f"{value * 1e6:.1f} us"
