"""`planner models`: the models that ship, and any config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli import options as opt

if TYPE_CHECKING:
    from planner.model import ModelSpec

__all__ = ["app", "list_", "show"]

app = typer.Typer(help="Models: list the shipped ones, show one.", invoke_without_command=True)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(json: opt.Json = False) -> None:
    """List the shipped models."""
    from planner.cli.output import print_data, print_table
    from planner.model import list_models, load_model
    from planner.report.models import model_table

    models = [load_model(name) for name in list_models()]
    if json:
        print_data([_data(model) for model in models])
    else:
        print_table(model_table(models))


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE|FOLDER",
            help="Shipped model, a config.json, or a folder with one.",
            autocompletion=opt.names_of("model"),
            show_default=False,
        ),
    ],
    weight_dtype: opt.WeightDtype = None,
    kv_dtype: opt.KvDtype = None,
    assume: opt.Assume = None,
    json: opt.Json = False,
) -> None:
    """Show one model: sizes, kinds of layers, KV cache."""
    from planner.cli.inputs import read_model
    from planner.cli.output import print_data, print_table
    from planner.report.models import model_report

    model = read_model(name, weight_dtype, kv_dtype, assume)
    if json:
        print_data(_data(model) | {"kinds": [_kind(model, index) for index in range(len(model.kinds))]})
    else:
        print_table(model_report(model))


def _data(model: ModelSpec) -> dict[str, Any]:
    return {
        "name": model.name,
        "model_type": model.model_type,
        "source": model.source,
        "sha256": model.sha256,
        "layers": model.num_layers,
        "hidden": model.hidden,
        "vocab": model.vocab,
        "max_context": model.max_context,
        "params": model.params,
        "active_params": model.active_params,
        "weight_dtype": model.weight_dtype,
        "weight_bytes": model.weight_bytes,
        "bytes_by_dtype": model.bytes_by_dtype,
        "kv_dtype": model.kv_dtype,
        "kv_bytes_per_token": model.kv_bytes_per_token,
    }


def _kind(model: ModelSpec, index: int) -> dict[str, Any]:
    kind = model.kinds[index]
    return {
        "name": kind.name,
        "layers": model.kind_of_layer.count(index),
        "attention": kind.attention.kind,
        "heads": kind.attention.heads,
        "kv_heads": kind.attention.kv_heads,
        "window": kind.attention.window,
        "experts": kind.experts,
        "top_k": kind.top_k,
        "params": kind.params,
        "weight_bytes": kind.weight_bytes,
    }
