"""Numbers that know where they come from: a value or a curve, with kind, source, date and error."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from planner.cluster.loading import not_as_expected
from planner.units import parse_quantity

__all__ = [
    "Bandwidth",
    "Curve",
    "DateText",
    "Kind",
    "Quantity",
    "Seconds",
    "inherit_provenance",
    "number_in",
    "quantity_in",
]

Kind = Literal["spec", "measured", "fitted", "estimated"]
"""What a number rests on: a data sheet, a measurement, a fit to measurements, or a judgement."""


def _date_text(value: object) -> object:
    # YAML turns 2024-05-01 into a date of its own accord.
    return value.isoformat() if isinstance(value, datetime.date) else value


DateText = Annotated[
    str,
    BeforeValidator(_date_text),
    Field(
        pattern=r"^\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?$",
        description="YYYY, YYYY-MM or YYYY-MM-DD",
    ),
]


class Quantity(BaseModel):
    """One number in SI units, with its provenance.

    Parameters
    ----------
    value
        The number: bytes, bytes/s, FLOP/s, seconds, USD/hour, W or a ratio, as its field says.
    kind
        What it rests on.
    source
        The document or measurement, so that anybody can look it up.
    date
        When that was published or measured.
    error
        Relative error of the value, where one is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float = Field(allow_inf_nan=False)
    kind: Kind
    source: str = Field(min_length=1)
    date: DateText
    error: float | None = Field(default=None, ge=0)


class Curve(BaseModel):
    """A measured or estimated relation y(x), to be interpolated in log x.

    Parameters
    ----------
    x
        Strictly increasing, positive.
    y
        One value for each x, positive.
    kind, source, date
        Provenance, as in `Quantity`.
    error
        Relative error of y.
    error_basis
        How that error was found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: tuple[float, ...] = Field(min_length=1)
    y: tuple[float, ...] = Field(min_length=1)
    kind: Kind
    source: str = Field(min_length=1)
    date: DateText
    error: float = Field(ge=0, allow_inf_nan=False)
    error_basis: str = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_function(self) -> Curve:
        if len(self.x) != len(self.y):
            raise ValueError(f"has {len(self.x)} x values but {len(self.y)} y values")
        if not all(math.isfinite(value) and value > 0 for value in (*self.x, *self.y)):
            raise ValueError("x and y must be positive and finite, as curves are read in log space")
        if any(right <= left for left, right in zip(self.x, self.x[1:], strict=False)):
            raise ValueError("x must increase strictly")
        return self


def number_in(dimension: str, low: float, high: float) -> Callable[[object], float]:
    """Make a reader of ``"80 GiB"``-like text that distrusts values outside a plausible range.

    Parameters
    ----------
    dimension
        As in `planner.units.parse_quantity`.
    low, high
        Plausible range in SI; a value outside is most likely a wrong unit.
    """

    def read(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise not_as_expected(f"{raw!r} is not a number with a unit", expected=_EXAMPLE[dimension])
        try:
            value = parse_quantity(raw, dimension)
        except ValueError as error:
            raise not_as_expected(str(error), expected=_EXAMPLE[dimension]) from None
        if value < 0:
            expected = f"a positive {_NOUN[dimension]}"
            raise not_as_expected(f"{raw!r} is negative", expected=expected, hint="remove the minus sign")
        if value == 0 and low > 0:
            expected = f"a positive {_NOUN[dimension]}"
            raise not_as_expected(f"{raw!r} is zero", expected=expected, hint="leave out what is not there")
        if not low <= value <= high:
            direction = "small" if value < low else "large"
            raise not_as_expected(
                f"{raw!r} is implausibly {direction} for a {_NOUN[dimension]} ({value:g} {_SI[dimension]})",
                expected=_EXAMPLE[dimension],
                hint="check the unit: a bare number is SI; b is bits, B is bytes; G is 1e9, Gi is 2**30",
            )
        return value

    return read


_SI = {"bytes": "bytes", "bandwidth": "bytes/s", "flops": "FLOP/s", "time": "s"}
_NOUN = {"bytes": "memory size", "bandwidth": "bandwidth", "flops": "compute rate", "time": "latency"}
_EXAMPLE = {
    "bytes": "a size with its unit, such as '80 GiB'",
    "bandwidth": "a bandwidth with its unit, such as '400 Gb/s' (bits) or '50 GB/s' (bytes)",
    "flops": "a dense compute rate with its unit, such as '312 TFLOP/s'",
    "time": "a duration with its unit, such as '5 us'",
}
# Slower than 1 kB/s or faster than 100 TB/s is no link and no memory anybody has; the same for the others.
_RANGE = {"bytes": (2.0**28, 2.0**45), "bandwidth": (1e3, 1e14), "flops": (1e9, 1e18), "time": (0.0, 60.0)}
_TEXT_OR_NUMBER: dict[str, Any] = {"anyOf": [{"type": "number"}, {"type": "string"}]}

Bandwidth = Annotated[
    float, BeforeValidator(number_in("bandwidth", *_RANGE["bandwidth"])), WithJsonSchema(_TEXT_OR_NUMBER)
]
"""Bytes per second; accepts ``"400 Gb/s"``."""

Seconds = Annotated[float, BeforeValidator(number_in("time", *_RANGE["time"])), WithJsonSchema(_TEXT_OR_NUMBER)]
"""A latency; accepts ``"5 us"``."""


def quantity_in(dimension: str) -> BeforeValidator:
    """Make the validator that reads a `Quantity` whose value has a unit.

    Parameters
    ----------
    dimension
        ``"bytes"``, ``"bandwidth"``, ``"flops"`` or ``"time"``.
    """
    read = number_in(dimension, *_RANGE[dimension])

    def parse(raw: object) -> object:
        return {**raw, "value": read(raw["value"])} if isinstance(raw, dict) and "value" in raw else raw

    return BeforeValidator(parse)


def inherit_provenance(data: object, fields: tuple[str, ...]) -> object:
    """Give the numbers of a file the kind, source and date at its top, unless they bring their own.

    Parameters
    ----------
    data
        What the file holds: fields, among them ``kind``, ``source`` and ``date``.
    fields
        Names of the fields that hold a quantity or curve; with ``.*`` behind it, a mapping of them.

    Returns
    -------
    object
        The same with every such number written out; what is not a mapping comes back as it is.

    Examples
    --------
    >>> top = {"kind": "spec", "source": "data sheet", "date": "2024", "memory": "80 GiB"}
    >>> inherit_provenance(top, ("memory",))["memory"]
    {'kind': 'spec', 'source': 'data sheet', 'date': '2024', 'value': '80 GiB'}
    """
    if not isinstance(data, dict):
        return data
    top = {key: data[key] for key in ("kind", "source", "date") if key in data}

    def complete(raw: object) -> object:
        if isinstance(raw, dict):
            # A number with a source of its own must bring kind and date as well: half a provenance misleads.
            return raw if "source" in raw else top | raw
        return top | {"value": raw} if isinstance(raw, int | float | str) else raw

    out = dict(data)
    for field in fields:
        name, each = field.removesuffix(".*"), field.endswith(".*")
        if name in out:
            inner = out[name]
            if not each:
                out[name] = complete(inner)
            elif isinstance(inner, dict):
                out[name] = {key: complete(value) for key, value in inner.items()}
    return out
