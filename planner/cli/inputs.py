"""From options to what the library takes: models, workloads, explicit replicas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.dtypes import Dtype
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.workload import Slo, Workload

__all__ = ["parse_replica", "rate_of", "read_model", "read_workload", "replicas_of", "slo_of"]

_DEFAULT_PERCENTILE: Final = 0.9
_STAGE: Final = re.compile(r"(?P<gpus>[^:]+?)\s*(?::\s*(?P<layers>\d+))?$")
_GPUS: Final = re.compile(r"(?P<node>[A-Za-z0-9][A-Za-z0-9._-]*)/(?P<first>\d+)(?:-(?P<last>\d+))?$")


def read_model(name: str, weight_dtype: str | None, kv_dtype: str | None, assume: str | None) -> ModelSpec:
    """Load the model that the options describe."""
    from planner.model import load_model

    return load_model(
        name,
        weight_dtype=cast("Dtype | None", weight_dtype),
        kv_dtype=cast("Dtype | None", kv_dtype),
        assume=assume,
    )


def slo_of(ttft: float | None, tpot: float | None, percentile: float | None) -> Slo:
    """Put the targets together."""
    from planner.workload import Slo

    return Slo(ttft=ttft, tpot=tpot, percentile=_DEFAULT_PERCENTILE if percentile is None else percentile)


def rate_of(rate: str) -> float | None:
    """Demand in requests/s of ``max`` (None) or a number."""
    return None if rate == "max" else float(rate)


def read_workload(
    *,
    trace: str | None,
    layout: str | None,
    drop_longer_than: int | None,
    isl: int | None,
    osl: int | None,
    rate: str | None,
    slo: Slo,
    quiet: bool,
) -> Workload:
    """Make the workload that the options describe.

    Raises
    ------
    typer.BadParameter
        If they describe none, or two.
    InputError
        If the trace is wrong.
    """
    from planner.cli.output import note
    from planner.workload import fixed_workload, load_trace

    if trace is None:
        if isl is None or osl is None:
            raise typer.BadParameter(
                "no workload: give --trace NAME|FILE (planner traces lists the shipped ones), or --isl and --osl",
                param_hint="--trace",
            )
        if rate == "trace":
            raise typer.BadParameter("there is no trace whose rate could be taken", param_hint="--rate")
        if layout is not None or drop_longer_than is not None:
            raise typer.BadParameter("is for traces", param_hint="--layout" if layout else "--drop-longer-than")
        demand = rate_of(rate or "max")
        return fixed_workload(isl, osl, rate="max" if demand is None else demand, slo=slo)
    if isl is not None or osl is not None:
        raise typer.BadParameter("give a trace or fixed lengths, not both", param_hint="--isl/--osl")
    loaded = load_trace(trace, layout=layout)
    if drop_longer_than is not None:
        kept = loaded.within(drop_longer_than)
        if not quiet:
            dropped = len(loaded) - len(kept)
            share = f"{dropped:,} of {len(loaded):,} requests ({dropped / len(loaded):.1%})"
            note(f"left out {share} that take more than {drop_longer_than:,} tokens")
        loaded = kept
    if rate is None or rate == "trace":
        return loaded.summary(slo, rate="trace")
    demand = rate_of(rate)
    return loaded.summary(slo, rate="max" if demand is None else demand)


def parse_replica(text: str) -> list[tuple[tuple[str, ...], int | None]]:
    """Read one replica: its stages in order, each ``GPUS[:LAYERS]``, with commas between.

    GPUs are written as tables print them: ``node/index`` or ``node/first-last``, joined by ``+``.

    Examples
    --------
    >>> parse_replica("a100-0/0-1:60, l4-0/0 + l4-0/3:20")
    [(('a100-0/0', 'a100-0/1'), 60), (('l4-0/0', 'l4-0/3'), 20)]
    """
    return [_parse_stage(part.strip()) for part in text.split(",")]


def _parse_stage(text: str) -> tuple[tuple[str, ...], int | None]:
    match = _STAGE.match(text)
    gpus: list[str] = []
    for part in match["gpus"].split("+") if match else [""]:
        found = _GPUS.match(part.strip())
        if match is None or found is None or (found["last"] and int(found["last"]) < int(found["first"])):
            raise typer.BadParameter(
                f"{text!r} is no stage; write GPUs and layers, such as a100-0/0-3:40", param_hint="--replica"
            )
        first = int(found["first"])
        last = int(found["last"] or first)
        gpus += [f"{found['node']}/{index}" for index in range(first, last + 1)]
    layers = match["layers"] if match else None
    return tuple(gpus), None if layers is None else int(layers)


def replicas_of(
    texts: Sequence[str], model: ModelSpec, engine: EngineProfile
) -> list[list[tuple[tuple[str, ...], int]]]:
    """Read all replicas; where no stage says its layers, the engine's own split is taken."""
    from planner.engine import default_split

    replicas = []
    for text in texts:
        stages = parse_replica(text)
        counts = [layers for _, layers in stages]
        if all(layers is None for layers in counts):
            told = list(default_split(engine, model.num_layers, len(stages)))
        elif any(layers is None for layers in counts):
            raise typer.BadParameter(f"{text!r}: give the layers of every stage or of none", param_hint="--replica")
        else:
            told = [layers for layers in counts if layers is not None]
        replicas.append([(gpus, layers) for (gpus, _), layers in zip(stages, told, strict=True)])
    return replicas
