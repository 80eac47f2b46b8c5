"""`planner schema`: JSON Schemas of the files that are read and written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(
    what: Annotated[
        Literal["plan", "cluster", "device", "workload", "engine", "models"],
        typer.Argument(help="Which file.", show_default=False),
    ],
) -> None:
    """Print the JSON Schema (2020-12) of a plan, a cluster, a GPU type, a workload, an engine or models.

    [dim]planner schema cluster > cluster.schema.json[/dim]
    """
    from planner.cli.output import print_data

    print_data(_schema_of(what))


def _schema_of(what: str) -> dict[str, Any]:
    if what == "plan":
        from planner.plan import plan_schema

        return plan_schema()
    from planner.cluster import ClusterSpec, DeviceProfile
    from planner.engine import EngineProfile
    from planner.search.fleet_file import ModelsFile
    from planner.workload import Workload

    models: dict[str, type[BaseModel]] = {
        "cluster": ClusterSpec,
        "device": DeviceProfile,
        "workload": Workload,
        "engine": EngineProfile,
        "models": ModelsFile,
    }
    return {"$schema": _DIALECT, **models[what].model_json_schema()}
