"""Constants that were fitted to end-to-end measurements, and how wrong they leave a prediction: ``profiles/fits``.

A fit's file holds the constants; those of each fold, which have not seen one group of the measurements; and the errors
of predicting every group by the fold that has not seen it. `benchmarks/fit_serving.py` writes them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planner.errors import InputError
from planner.resources import read_text, resource_dir

__all__ = [
    "FitFile",
    "LeftOut",
    "StoredFold",
    "figure_of",
    "list_fits",
    "load_fit",
    "overheads_of",
    "training_times_of",
]

_STRICT: Final = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

# Constants of an engine; those that are not fitted for each one are shared by all.
_OVERHEADS: Final = (
    "iteration",
    "layer",
    "eager",
    "sequence",
    "prompt",
    "first_token",
    "kernels",
    "collectives",
    "quantise",
)


class LeftOut(BaseModel):
    """Errors of one figure where its group had not been seen.

    Parameters
    ----------
    part, figure
        Which rows, such as ``"dense"``, and what of them.
    rows
        Their number.
    mean_ape, median_ape, bias
        As fractions.
    band
        Half width of the band around a prediction that held 90 % of the measurements.
    coverage
        Share of the measurements that lay within a band learnt from the other groups alone.
    """

    model_config = _STRICT

    part: str
    figure: str
    rows: int = Field(ge=1)
    mean_ape: float = Field(ge=0)
    median_ape: float = Field(ge=0)
    bias: float
    band: float = Field(gt=0)
    coverage: float = Field(ge=0, le=1)


class StoredFold(BaseModel):
    """Constants that have not seen a group."""

    model_config = _STRICT

    group: tuple[str, ...]
    constants: dict[str, float]


class FitFile(BaseModel):
    """One fit.

    Parameters
    ----------
    name, title
        Of the fit.
    kind, source, date
        Provenance.
    rows
        Measurements that it was fitted to.
    constants
        Fitted to all of them.
    left_out
        What a cross-validation by whole groups found.
    folds
        Its constants.
    """

    model_config = _STRICT

    name: str
    title: str
    kind: Literal["fitted"]
    source: str = Field(min_length=10)
    date: str
    rows: int
    constants: dict[str, float]
    left_out: tuple[LeftOut, ...]
    folds: tuple[StoredFold, ...]

    def error(self, part: str, figure: str) -> LeftOut:
        """Left-out errors of a figure of some rows.

        Raises
        ------
        KeyError
            If they were not measured.
        """
        for one in self.left_out:
            if (one.part, one.figure) == (part, figure):
                return one
        raise KeyError((part, figure))


def list_fits() -> tuple[str, ...]:
    """Names of the fits that ship.

    Examples
    --------
    >>> "serving" in list_fits()
    True
    """
    return tuple(sorted(path.stem for path in (resource_dir("profiles") / "fits").glob("*.yaml")))


def load_fit(name: str) -> FitFile:
    """Read a fit that ships.

    Raises
    ------
    InputError
        If there is none, or it is wrong.
    """
    return _read(resource_dir("profiles") / "fits" / f"{name}.yaml")


@lru_cache(maxsize=8)
def _read(path: Path) -> FitFile:
    try:
        return FitFile.model_validate(yaml.safe_load(read_text(path, "fit")))
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(str(error), where=path) from None


def overheads_of(fit: str, engine: str) -> dict[str, Any]:
    """Overheads of an engine from a fit, as an engine's file writes them.

    Parameters
    ----------
    fit
        Name of the fit; ``"serving/vllm"`` takes the constants of another engine, as an estimate.
    engine
        Name of the engine. One that was not measured gets the mean of those that were, as an estimate.
    """
    fit, _, other = fit.partition("/")
    found = load_fit(fit)
    latency, first = _bands(found)
    written: dict[str, Any] = {}
    for name in _OVERHEADS:
        own = {key.split(".")[1]: value for key, value in found.constants.items() if key.startswith(f"{name}.")}
        if not own and name not in found.constants:
            continue
        measured = not own or (not other and engine in own)
        taken = other or engine
        value = found.constants[name] if not own else own[taken] if taken in own else fmean(own.values())
        whose = f"as {other}" if other else "mean of the engines that were measured"
        written[name] = {
            "value": value,
            "kind": "fitted" if measured else "estimated",
            "source": found.source if measured else f"{whose}; {found.source}",
            "date": found.date,
            "error": first if name == "first_token" else latency,
        }
    return written


def figure_of(fit: str, name: str) -> dict[str, Any]:
    """One constant of a fit, as an engine's file writes it."""
    found = load_fit(fit)
    return {
        "value": found.constants[name],
        "kind": "fitted",
        "source": found.source,
        "date": found.date,
        "error": _bands(found)[0],
    }


def training_times_of(fit: str) -> dict[str, Any]:
    """Constants of training runs from a fit, as an engine's file writes them; all with the band of its runs."""
    found = load_fit(fit)
    band = found.error("all", "iteration_time").band
    shared = {"kind": "fitted", "source": found.source, "date": found.date, "error": band}
    return {name: {"value": value, **shared} for name, value in found.constants.items()}


def _bands(fit: FitFile) -> tuple[float, float]:
    """The bands of the figures that a fit's constants decide: TPOT or throughput, and TTFT."""
    figures = {one.figure: one.band for one in fit.left_out if one.part == "all"}
    return figures.get("tpot", figures.get("throughput", 0.0)), figures["ttft"]
