"""Traces of real requests: read one, look at it, and summarise it as a `Workload`.

Arrays: N requests, sorted by arrival.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planner.errors import InputError, unknown_name
from planner.resources import read_text, resource_dir
from planner.workload.layouts import read_rows
from planner.workload.spec import LengthDistribution, Slo, Workload, check_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]

__all__ = ["Trace", "TraceSource", "list_traces", "load_trace", "trace_source"]


class TraceSource(BaseModel):
    """Where a shipped trace comes from: the YAML file beside it.

    Parameters
    ----------
    name, title, file, layout
        Registry name, name for people, the file beside it, and its layout.
    source, url, licence, date
        Who recorded and who processed it, where that is published, under which terms, and when.
    kind
        How the lengths and arrivals were found.
    requests, columns, sha256
        What the file holds, with units, and the hash of its uncompressed text.
    notes
        What else a reader should know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    file: str
    layout: str
    source: str
    url: str
    licence: str
    kind: Literal["measured", "estimated"]
    date: str
    requests: int = Field(ge=1)
    columns: dict[str, str]
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests as they came.

    Parameters
    ----------
    name, source, sha256
        Short name, origin, and hash of the uncompressed text.
    arrival_N
        Seconds since the first request, ascending; None where the trace has lengths only.
    prompt_N, output_N
        Tokens in and out.
    session_N
        Number of the conversation (-1 for none); None where the trace does not tell.
    prefix_share
        Share of the prompt tokens that earlier requests had already brought.
    dropped
        Rows of the file left out because they record failures.
    """

    name: str
    source: str
    sha256: str
    arrival_N: FloatArray | None
    prompt_N: IntArray
    output_N: IntArray
    session_N: IntArray | None = None
    prefix_share: float = 0.0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.prompt_N)

    @property
    def duration(self) -> float:
        """Seconds from the first arrival to the last; 0 without arrivals."""
        return 0.0 if self.arrival_N is None else float(self.arrival_N[-1])

    @property
    def rate(self) -> float | None:
        """Mean requests per second, one over the mean time between arrivals; None where it has none."""
        return (len(self) - 1) / self.duration if self.duration > 0 else None

    @property
    def burstiness(self) -> float:
        """Coefficient of variation of the times between arrivals; 1 (Poisson) where there are none."""
        if self.arrival_N is None or self.duration <= 0:
            return 1.0
        gaps_N = np.diff(self.arrival_N)
        return float(gaps_N.std() / gaps_N.mean())

    def scaled(self, rate_factor: float) -> Trace:
        """Return the same requests arriving `rate_factor` times as fast.

        Raises
        ------
        InputError
            If the factor is not positive and finite, or there are no arrivals.
        """
        if not (math.isfinite(rate_factor) and rate_factor > 0):
            raise InputError(f"rate factor {rate_factor}", expected="a positive number")
        if self.arrival_N is None:
            raise _no_arrivals(self)
        return replace(self, arrival_N=self.arrival_N / rate_factor)

    def within(self, max_tokens: int) -> Trace:
        """Return the requests that need at most `max_tokens`, in and out together; the others are left out.

        Parameters
        ----------
        max_tokens
            Usually the model's context, or the engine's limit on it.

        Raises
        ------
        InputError
            If no request is that short.

        Examples
        --------
        >>> trace = load_trace("azure-conv-2023")
        >>> len(trace), len(trace.within(4096))
        (19366, 17754)
        """
        kept_N = self.prompt_N + self.output_N <= max_tokens
        if kept_N.all():
            return self
        if not kept_N.any():
            shortest = int((self.prompt_N + self.output_N).min())
            raise InputError(
                f"no request is left within {max_tokens} tokens",
                where=self.source,
                expected=f"a limit of at least {shortest}, the shortest request",
            )
        arrival_N = None if self.arrival_N is None else self.arrival_N[kept_N]
        return replace(
            self,
            name=f"{self.name}-within-{max_tokens}",
            source=f"{self.source}; without requests of more than {max_tokens} tokens",
            arrival_N=None if arrival_N is None else arrival_N - arrival_N[0],
            prompt_N=self.prompt_N[kept_N],
            output_N=self.output_N[kept_N],
            session_N=None if self.session_N is None else self.session_N[kept_N],
        )

    def summary(self, slo: Slo | None = None, *, rate: float | Literal["trace", "max"] = "trace") -> Workload:
        """Summarise as a workload.

        Parameters
        ----------
        slo
            What each request is promised; None promises nothing.
        rate
            Requests per second to ask for: ``"trace"`` for the trace's own mean, ``"max"`` for as many as the
            cluster can serve.

        Raises
        ------
        InputError
            If the rate is not positive and finite, or the trace has none of its own.
        """
        if rate == "max":
            demand = None
        elif rate == "trace":
            demand = self.rate
            if demand is None:
                raise _no_arrivals(self)
        else:
            demand = check_rate(rate)
        lengths = _lengths_of(self)
        return Workload(
            name=self.name,
            source=self.source,
            sha256=self.sha256,
            kind="trace",
            rate=demand,
            prompt=lengths.prompt,
            output=lengths.output,
            total=lengths.total,
            mean_decode_context=lengths.decode_context,
            requests=len(self),
            duration=self.duration,
            burstiness=lengths.burstiness,
            prefix_share=self.prefix_share,
            slo=Slo() if slo is None else slo,
        )

    def statistics(self) -> dict[str, float | None]:
        """Figures for display: requests, span (s), rate (1/s), burstiness, and lengths in tokens."""
        figures = self.summary(rate="max").statistics()
        return figures | {"rate": self.rate, "dropped": float(self.dropped)}


@dataclass(frozen=True, slots=True)
class _Lengths:
    """What a trace comes to, whatever is asked of it."""

    prompt: LengthDistribution
    output: LengthDistribution
    total: LengthDistribution
    decode_context: float
    burstiness: float


@lru_cache(maxsize=16)
def _lengths_of(trace: Trace) -> _Lengths:
    prompt_N, output_N = trace.prompt_N.astype(np.float64), trace.output_N.astype(np.float64)
    context = (np.mean(prompt_N * output_N) + np.mean(output_N**2) / 2) / output_N.mean()
    return _Lengths(
        prompt=LengthDistribution.of(prompt_N),
        output=LengthDistribution.of(output_N),
        total=LengthDistribution.of(prompt_N + output_N),
        decode_context=float(context),
        burstiness=trace.burstiness,
    )


def list_traces() -> tuple[str, ...]:
    """Names of the shipped traces.

    Examples
    --------
    >>> list_traces()
    ('azure-code-2023', 'azure-conv-2023')
    """
    return tuple(sorted(path.stem for path in (resource_dir("profiles") / "traces").glob("*.yaml")))


def trace_source(name: str) -> TraceSource:
    """Say where a shipped trace comes from.

    Raises
    ------
    InputError
        If no such trace ships.

    Examples
    --------
    >>> trace_source("azure-conv-2023").licence
    'CC-BY-4.0'
    """
    if name not in list_traces():
        raise unknown_name("trace", name, list_traces())
    path = resource_dir("profiles") / "traces" / f"{name}.yaml"
    try:
        return TraceSource.model_validate(yaml.safe_load(read_text(path, "trace description")))
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(str(error), where=path, expected="a trace description") from None


def load_trace(name_or_path: str | Path, *, layout: str | None = None) -> Trace:
    """Load a trace.

    Parameters
    ----------
    name_or_path
        A shipped name, or a CSV or JSON-lines file, plain or gzipped.
    layout
        A name in `planner.workload.layouts.LAYOUTS`; None goes by the columns.

    Raises
    ------
    InputError
        If there is no such trace, the layout is unknown, or a row is bad: names file, line, column and value.

    Examples
    --------
    >>> trace = load_trace("azure-conv-2023")
    >>> len(trace), round(trace.prompt_N.mean()), round(trace.output_N.mean())
    (19366, 1155, 211)
    """
    if isinstance(name_or_path, str) and name_or_path in list_traces():
        shipped = trace_source(name_or_path)
        path = resource_dir("profiles") / "traces" / shipped.file
        return _load(path, layout or shipped.layout, name=shipped.name, source=shipped.source)
    path = Path(name_or_path)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        raise unknown_name("trace", str(name_or_path), list_traces())
    name = path.name.removesuffix(".gz")
    return _load(path, layout, name=name.rsplit(".", 1)[0] or name, source=str(name_or_path))


def _load(path: Path, layout: str | None, *, name: str, source: str) -> Trace:
    content = _read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text (byte {error.start})", where=path, expected="a trace file") from None
    rows = read_rows(text, str(path), layout)
    arrival_N, order_N = rows.arrival_N, np.arange(len(rows.prompt_N))
    if arrival_N is not None:
        order_N = np.argsort(arrival_N, kind="stable")
        arrival_N = arrival_N[order_N] - arrival_N.min()
    return Trace(
        name=name,
        source=source,
        sha256=hashlib.sha256(content).hexdigest(),
        arrival_N=arrival_N,
        prompt_N=rows.prompt_N[order_N],
        output_N=rows.output_N[order_N],
        session_N=None if rows.session_N is None else rows.session_N[order_N],
        prefix_share=rows.prefix_share,
        dropped=rows.dropped,
    )


def _read_bytes(path: Path) -> bytes:
    """Read a file, uncompressing it if it is gzipped (by content, not by name)."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        shipped = ", ".join(list_traces())
        raise InputError("no such file", where=path, expected="a trace file", hint=f"shipped: {shipped}") from None
    except IsADirectoryError:
        raise InputError("is a folder", where=path, expected="a trace file") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=path, expected="a trace file") from None
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"is damaged or cut short: {error}", where=path, expected="a gzipped trace file") from None


def _no_arrivals(trace: Trace) -> InputError:
    """Error for a trace that has no rate of its own."""
    return InputError(
        "has no spread of arrival times, so no rate",
        where=trace.source,
        expected="a rate",
        hint="give requests per second, or 'max' for as many as the cluster can serve",
    )
