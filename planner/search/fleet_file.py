"""The file that lists several models for one cluster: each with its requests, its rate, its SLO and its weight.

Everything that a file says is checked before anything is searched; names may be shipped ones or paths, seen from the
file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from planner.cluster.loading import not_as_expected, read_yaml, validated
from planner.dtypes import Dtype
from planner.model import list_models, load_model
from planner.search.problem import ServedModel
from planner.workload import Slo, Workload, fixed_workload, list_traces, load_trace
from planner.workload.spec import Seconds

__all__ = ["EXAMPLE", "ModelEntry", "ModelsFile", "load_models_file"]

EXAMPLE: Final = """\
models:
  - model: llama-3.1-70b
    trace: azure-conv-2023
    rate: 2              # requests/s; without it the trace's own, or max
    ttft: 2 s
    tpot: 100 ms
  - model: llama-3.1-8b
    isl: 1024
    osl: 256
    rate: 10
    tpot: 50 ms
    weight: 0.2          # of a request beside those of other models, for the objective goodput
"""


def _rate(raw: object) -> object:
    if raw in ("trace", "max") or raw is None:
        return raw
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw < float("inf"):
        raise not_as_expected(
            f"{raw!r} is no rate", expected="requests per second above 0, 'trace' or 'max'", hint="rate: 5"
        )
    return float(raw)


class ModelEntry(BaseModel):
    """One model of the file.

    Parameters
    ----------
    model
        A shipped name, a config.json or a folder with one.
    trace, isl, osl
        Its requests: a trace, or fixed lengths.
    rate
        Requests/s; ``"trace"`` for the trace's own, ``"max"`` for as many as can be served. Default: the trace's own,
        or as many as can be served.
    ttft, tpot, percentile
        What is promised.
    weight
        What a request is worth beside those of other models.
    drop_longer_than
        Leave out requests of the trace that need more tokens.
    weight_dtype, kv_dtype
        Formats, instead of the model's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(min_length=1)
    trace: str | None = None
    isl: int | None = Field(default=None, ge=1)
    osl: int | None = Field(default=None, ge=1)
    rate: Annotated[float | Literal["trace", "max"] | None, BeforeValidator(_rate)] = None
    ttft: Seconds | None = Field(default=None, gt=0)
    tpot: Seconds | None = Field(default=None, gt=0)
    percentile: float = Field(default=0.90, gt=0, lt=1)
    weight: float = Field(default=1.0, gt=0)
    drop_longer_than: int | None = Field(default=None, ge=2)
    weight_dtype: Dtype | None = None
    kv_dtype: Dtype | None = None

    @model_validator(mode="after")
    def _one_workload(self) -> Self:
        fixed = self.isl is not None or self.osl is not None
        if self.trace is not None and fixed:
            raise not_as_expected("has a trace and fixed lengths", expected="one of the two", hint="leave one out")
        if self.trace is None and (self.isl is None or self.osl is None):
            raise not_as_expected("says nothing of its requests", expected="a trace, or isl and osl")
        if self.trace is None and (self.rate == "trace" or self.drop_longer_than is not None):
            what = "rate: trace" if self.rate == "trace" else "drop_longer_than"
            raise not_as_expected(f"{what} without a trace", expected="a trace", hint="give a number")
        return self

    def served(self, folder: Path) -> ServedModel:
        """Load what the entry names; paths are seen from a folder."""
        model = load_model(
            _found(self.model, list_models(), folder), weight_dtype=self.weight_dtype, kv_dtype=self.kv_dtype
        )
        return ServedModel(model=model, workload=self._workload(folder), weight=self.weight)

    def _workload(self, folder: Path) -> Workload:
        slo = Slo(ttft=self.ttft, tpot=self.tpot, percentile=self.percentile)
        if self.trace is None:
            rate: float | Literal["max"] = self.rate if isinstance(self.rate, float) else "max"
            return fixed_workload(self.isl or 1, self.osl or 1, rate=rate, slo=slo)
        trace = load_trace(_found(self.trace, list_traces(), folder))
        if self.drop_longer_than is not None:
            trace = trace.within(self.drop_longer_than)
        return trace.summary(slo, rate=self.rate or "trace")


class ModelsFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[ModelEntry, ...]

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.models:
            raise not_as_expected("lists no model", expected="at least one", hint="planner serving --help shows one")
        return self


def load_models_file(path: str | Path) -> tuple[ServedModel, ...]:
    """Load models and workloads from a file (YAML, or JSON, which is YAML).

    Raises
    ------
    InputError
        If the file, or anything that it names, is wrong: names file and field.
    """
    path = Path(path)
    data, _ = read_yaml(path, "list of models")
    return tuple(entry.served(path.parent) for entry in validated(ModelsFile, data, path).models)


def _found(name: str, shipped: tuple[str, ...], folder: Path) -> str:
    """Tell a shipped name from a path; the latter counts from the file's folder where it leads somewhere from there."""
    if name in shipped or Path(name).is_absolute() or not (folder / name).exists():
        return name
    return str(folder / name)
