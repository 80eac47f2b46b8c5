"""What is asked of a cluster: how many requests a second, how long they are, how fast they must be answered.

A `Workload` is a summary small enough to be embedded in a plan, and sufficient: every prediction is computed
from it alone, so a plan can be checked without the trace that it was made for.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from planner.errors import InputError
from planner.units import parse_quantity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["QUANTILE_LEVELS", "LengthDistribution", "Slo", "Workload", "check_rate"]

QUANTILE_LEVELS: Final[tuple[float, ...]] = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

_STRICT_NUMBERS: Final = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _seconds(value: object) -> object:
    return parse_quantity(value, "time") if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]


class Slo(BaseModel):
    """What each request is promised, and the share of requests for which it must hold.

    Parameters
    ----------
    ttft
        Longest time to first token in seconds (or text: ``"2 s"``); None promises nothing.
    tpot
        Longest mean time per output token after the first, in seconds (or text: ``"100 ms"``); None promises
        nothing.
    percentile
        Fraction of the requests that must meet the TTFT, strictly between 0 and 1; TPOT is held on average.

    Examples
    --------
    >>> Slo(ttft="2 s", tpot="100 ms")
    Slo(ttft=2.0, tpot=0.1, percentile=0.9)
    """

    model_config = _STRICT_NUMBERS

    ttft: Seconds | None = Field(default=None, gt=0)
    tpot: Seconds | None = Field(default=None, gt=0)
    percentile: float = Field(default=0.90, gt=0, lt=1)


def check_rate(rate: object) -> float:
    """Check a demanded rate.

    Raises
    ------
    InputError
        If it is not a positive, finite number of requests per second.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
        raise InputError(
            f"rate {rate!r}",
            expected="requests per second, more than 0 and finite",
            hint="'max' asks for as many as the cluster can serve",
        )
    return float(rate)


class LengthDistribution(BaseModel):
    """How many tokens requests have, as moments and quantiles.

    Parameters
    ----------
    mean
        Mean number of tokens.
    second_moment
        Mean of the squared number of tokens.
    quantiles
        Tokens at each of `QUANTILE_LEVELS`, from the shortest request to the longest.
    """

    model_config = _STRICT_NUMBERS

    mean: float = Field(gt=0)
    second_moment: float = Field(gt=0)
    quantiles: tuple[float, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.quantiles) != len(QUANTILE_LEVELS):
            raise ValueError(f"{len(self.quantiles)} quantiles, expected {len(QUANTILE_LEVELS)}")
        if self.quantiles[0] <= 0 or any(low > high for low, high in pairwise(self.quantiles)):
            raise ValueError("quantiles must be positive and must not decrease")
        slack = 1e-9 * self.mean
        if not self.min - slack <= self.mean <= self.max + slack:
            raise ValueError(f"mean {self.mean:g} lies outside [{self.min:g}, {self.max:g}]")
        if self.second_moment < self.mean**2 * (1 - 1e-9):
            raise ValueError("the second moment is smaller than the square of the mean")
        return self

    @classmethod
    def of(cls, tokens_N: ArrayLike) -> LengthDistribution:
        """Summarise token counts.

        Parameters
        ----------
        tokens_N
            Positive token counts, one per request, at least one.

        Examples
        --------
        >>> LengthDistribution.of([1, 2, 3]).mean
        2.0
        """
        values_N = np.asarray(tokens_N, dtype=np.float64)
        return cls(
            mean=float(values_N.mean()),
            second_moment=float(np.mean(values_N**2)),
            quantiles=tuple(float(value) for value in np.quantile(values_N, QUANTILE_LEVELS)),
        )

    @property
    def min(self) -> float:
        """Fewest tokens."""
        return self.quantiles[0]

    @property
    def max(self) -> float:
        """Most tokens."""
        return self.quantiles[-1]

    @property
    def std(self) -> float:
        """Standard deviation, in tokens."""
        return math.sqrt(max(0.0, self.second_moment - self.mean**2))

    def quantile(self, level: float) -> float:
        """Tokens that a share `level` of the requests does not exceed.

        Stored levels come back exactly; between them the logarithm of the length is interpolated linearly,
        since lengths spread over orders of magnitude.

        Parameters
        ----------
        level
            Between 0 (the shortest) and 1 (the longest), both included.

        Examples
        --------
        >>> LengthDistribution(mean=2, second_moment=5, quantiles=(1,) * 5 + (2,) + (4,) * 5).quantile(0.5)
        2.0
        """
        if not 0.0 <= level <= 1.0:
            raise ValueError(f"level {level} is not between 0 and 1")
        upper = next(i for i, stored in enumerate(QUANTILE_LEVELS) if stored >= level)
        high = self.quantiles[upper]
        if QUANTILE_LEVELS[upper] == level:
            return high
        low = self.quantiles[upper - 1]
        below = QUANTILE_LEVELS[upper - 1]
        share = (level - below) / (QUANTILE_LEVELS[upper] - below)
        return float(low * (high / low) ** share)

    def statistics(self) -> dict[str, float]:
        """Mean, median, 90th and 99th percentile and maximum, for display."""
        return {
            "mean": self.mean,
            "p50": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "max": self.max,
        }


class Workload(BaseModel):
    """Summary of the requests that a cluster has to serve.

    Parameters
    ----------
    name
        Short name: the trace's, or what made it.
    source
        Where the lengths and arrivals come from: a file, a shipped trace with its origin, or a formula.
    sha256
        Hash of the trace's (uncompressed) text, or of the formula.
    kind
        ``"trace"``, ``"fixed"`` (all requests alike) or ``"distribution"``.
    rate
        Requests per second asked for; None asks for as many as the cluster can serve.
    prompt, output
        Tokens per request in and out (ISL and OSL).
    total
        Tokens per request in and out together: how far its KV cache grows.
    mean_decode_context
        Mean context length that a decode step attends to, ``(E[P O] + E[O²] / 2) / E[O]`` for prompts P and
        outputs O. It depends on whether long answers go with long prompts, so the marginals do not tell it.
    requests, duration
        Requests summarised, and the seconds over which they arrived (0 where there are no arrivals).
    burstiness
        Coefficient of variation of the times between arrivals; 1 for a Poisson process.
    prefix_share
        Share of the prompt tokens whose KV an unbounded prefix cache would already hold.
    slo
        What each request is promised.
    """

    model_config = _STRICT_NUMBERS

    name: str
    source: str
    sha256: str
    kind: Literal["trace", "fixed", "distribution"]
    rate: float | None = Field(gt=0)
    prompt: LengthDistribution
    output: LengthDistribution
    total: LengthDistribution
    mean_decode_context: float = Field(gt=0)
    requests: int = Field(ge=1)
    duration: float = Field(ge=0)
    burstiness: float = Field(default=1.0, ge=0)
    prefix_share: float = Field(default=0.0, ge=0, lt=1)
    slo: Slo = Slo()

    @property
    def mean_total(self) -> float:
        """Mean tokens of KV cache that a request holds when it ends, ``E[P + O]``."""
        return self.total.mean

    def with_rate(self, rate: float | None) -> Workload:
        """Return the same requests at another rate; None asks for as many as the cluster can serve."""
        return self.model_copy(update={"rate": None if rate is None else check_rate(rate)})

    def with_slo(self, slo: Slo) -> Workload:
        """Return the same requests under another promise."""
        return self.model_copy(update={"slo": slo})

    def statistics(self) -> dict[str, float | None]:
        """Figures for display: requests, span (s), rate (1/s), burstiness, and lengths in tokens."""
        lengths = {
            f"{name}_{figure}": value
            for name, distribution in (("prompt", self.prompt), ("output", self.output))
            for figure, value in distribution.statistics().items()
        }
        return {
            "requests": float(self.requests),
            "span": self.duration,
            "rate": self.rate,
            "burstiness": self.burstiness,
            "prefix_share": self.prefix_share,
            **lengths,
        }
