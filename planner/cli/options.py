"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Assume",
    "ClusterName",
    "ClusterNow",
    "DropLongerThan",
    "EngineName",
    "EngineNow",
    "Isl",
    "Json",
    "KvDtype",
    "Layout",
    "MaxStages",
    "Method",
    "ModelName",
    "ModelNameOrNone",
    "ModelNow",
    "ModelsFileName",
    "Osl",
    "Output",
    "Percentile",
    "Quiet",
    "Rate",
    "RolesChoice",
    "Seed",
    "TimeLimit",
    "Tpot",
    "TraceName",
    "Ttft",
    "WeightDtype",
    "Workers",
    "names_of",
]

DtypeName = Literal["fp32", "bf16", "fp16", "fp8", "int8", "nvfp4", "mxfp4", "int4"]


def names_of(kind: str) -> Callable[[str], list[str]]:
    """Make a completer of shipped names.

    Parameters
    ----------
    kind
        ``"model"``, ``"cluster"``, ``"device"``, ``"engine"`` or ``"trace"``.
    """

    def complete(incomplete: str) -> list[str]:
        from planner.cluster import list_clusters, list_devices
        from planner.engine import list_engines
        from planner.model import list_models
        from planner.workload import list_traces

        lists = {
            "model": list_models,
            "cluster": list_clusters,
            "device": list_devices,
            "engine": list_engines,
            "trace": list_traces,
        }
        return [name for name in lists[kind]() if name.startswith(incomplete)]

    return complete


def _seconds(text: str) -> float:
    from planner.units import parse_quantity

    try:
        value = parse_quantity(text, "time")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if value <= 0:
        raise typer.BadParameter(f"{text!r} is not more than 0")
    return value


def _rate(text: str) -> str:
    if text in ("trace", "max"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{text!r} is not 'trace', 'max' or a positive number of requests per second")
    return text


_INPUT = "Input"
_WORKLOAD = "Workload"
_SEARCH = "Search"
_OUTPUT = "Output"

_MODEL = typer.Option(
    "--model",
    "-m",
    metavar="NAME|FILE|FOLDER",
    help="Shipped model (planner models), a config.json, or a folder with one.",
    autocompletion=names_of("model"),
    rich_help_panel=_INPUT,
)
ModelName = Annotated[str, _MODEL]
ModelNameOrNone = Annotated[str | None, _MODEL]
ModelsFileName = Annotated[
    Path | None,
    typer.Option(
        "--models",
        metavar="FILE",
        help="Several models instead of one: a YAML or JSON file with the model, trace or lengths, rate, ttft, tpot and"
        " weight of each.",
        rich_help_panel=_INPUT,
    ),
]
ClusterName = Annotated[
    str,
    typer.Option(
        "--cluster",
        "-c",
        metavar="NAME|FILE",
        help="Shipped cluster (planner topology), or a YAML file.",
        autocompletion=names_of("cluster"),
        rich_help_panel=_INPUT,
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        "-e",
        metavar="NAME|FILE",
        help="What runs the plan (planner engines); only what it can be told is planned, generic lifts that.",
        autocompletion=names_of("engine"),
        rich_help_panel=_INPUT,
    ),
]
WeightDtype = Annotated[
    DtypeName | None,
    typer.Option("--weight-dtype", help="Format of the weights, instead of the model's own.", rich_help_panel=_INPUT),
]
KvDtype = Annotated[
    DtypeName | None,
    typer.Option("--kv-dtype", help="Format of the KV cache, instead of the model's own.", rich_help_panel=_INPUT),
]
Assume = Annotated[
    str | None,
    typer.Option(
        "--assume", metavar="MODEL_TYPE", help="Read the config.json as this model_type.", rich_help_panel=_INPUT
    ),
]

TraceName = Annotated[
    str | None,
    typer.Option(
        "--trace",
        "-t",
        metavar="NAME|FILE",
        help="Shipped trace (planner traces), or a CSV or JSON-lines file, plain or gzipped.",
        autocompletion=names_of("trace"),
        rich_help_panel=_WORKLOAD,
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="NAME",
        help="Layout of the trace file, where its columns do not tell.",
        rich_help_panel=_WORKLOAD,
    ),
]
DropLongerThan = Annotated[
    int | None,
    typer.Option(
        "--drop-longer-than",
        metavar="TOKENS",
        min=2,
        help="Leave out requests of the trace that need more tokens, in and out together.",
        rich_help_panel=_WORKLOAD,
    ),
]
Isl = Annotated[
    int | None,
    typer.Option("--isl", metavar="TOKENS", min=1, help="Tokens in, of every request.", rich_help_panel=_WORKLOAD),
]
Osl = Annotated[
    int | None,
    typer.Option("--osl", metavar="TOKENS", min=1, help="Tokens out, of every request.", rich_help_panel=_WORKLOAD),
]
Rate = Annotated[
    str | None,
    typer.Option(
        "--rate",
        metavar="trace|max|NUMBER",
        parser=_rate,
        help="Requests per second: the trace's own, as many as the cluster can serve, or a number."
        " Default: trace; max with --isl and --osl.",
        rich_help_panel=_WORKLOAD,
    ),
]
Ttft = Annotated[
    float | None,
    typer.Option(
        "--ttft",
        metavar="TIME",
        parser=_seconds,
        help="Longest time to the first token: 2, '2 s', '800 ms'.",
        rich_help_panel=_WORKLOAD,
    ),
]
Tpot = Annotated[
    float | None,
    typer.Option(
        "--tpot",
        metavar="TIME",
        parser=_seconds,
        help="Longest mean time per output token after the first: 0.1, '100 ms'.",
        rich_help_panel=_WORKLOAD,
    ),
]
Percentile = Annotated[
    float | None,
    typer.Option(
        "--percentile",
        metavar="FRACTION",
        min=0.001,
        max=0.999,
        help="Share of the requests that must meet the TTFT; TPOT is held on average. Default: 0.9.",
        rich_help_panel=_WORKLOAD,
    ),
]

Method = Annotated[
    str,
    typer.Option(
        "--method", metavar="NAME", help="Search method; an unknown name lists them.", rich_help_panel=_SEARCH
    ),
]
MaxStages = Annotated[
    int | None,
    typer.Option(
        "--max-stages",
        metavar="NUMBER",
        min=1,
        help="Most pipeline stages. Default: the method's.",
        rich_help_panel=_SEARCH,
    ),
]
RolesChoice = Annotated[
    Literal["colocated", "disaggregated", "any"],
    typer.Option(
        "--roles",
        help="Whether replicas prefill and decode, do the one or the other, or whichever is best. What separate roles"
        " gain is a prediction that no replay has confirmed.",
        rich_help_panel=_SEARCH,
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        min=0.0,
        help="Return the best plan so far after this time, with the bound proven so far.",
        rich_help_panel=_SEARCH,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="NUMBER", min=0, help="For methods that draw random numbers.", rich_help_panel=_SEARCH
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers",
        metavar="NUMBER",
        min=1,
        help="Processes to spread over, for methods that do; the plan is the same.",
        rich_help_panel=_SEARCH,
    ),
]

# Where the inputs of a plan lie, if not where the plan says.
ModelNow = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME|FILE|FOLDER", help="Where the model lies now.", rich_help_panel=_INPUT),
]
ClusterNow = Annotated[
    str | None,
    typer.Option("--cluster", "-c", metavar="NAME|FILE", help="Where the cluster lies now.", rich_help_panel=_INPUT),
]
EngineNow = Annotated[
    str | None,
    typer.Option("--engine", "-e", metavar="NAME|FILE", help="Where the engine lies now.", rich_help_panel=_INPUT),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the plan to a file; - is stdout.", rich_help_panel=_OUTPUT
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.", rich_help_panel=_OUTPUT)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No tables and no progress on stderr.", rich_help_panel=_OUTPUT)
]
