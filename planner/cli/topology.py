"""`planner topology`: the clusters that ship, and any cluster file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli import options as opt

if TYPE_CHECKING:
    from planner.cluster import Cluster

__all__ = ["app", "list_", "show"]

app = typer.Typer(help="Clusters: list the shipped ones, show one with its links.", invoke_without_command=True)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(json: opt.Json = False) -> None:
    """List the shipped clusters."""
    from planner.cli.output import print_data, print_table
    from planner.cluster import list_clusters, load_cluster
    from planner.report.topology import cluster_table

    clusters = [load_cluster(name) for name in list_clusters()]
    if json:
        print_data([_data(cluster) for cluster in clusters])
    else:
        print_table(cluster_table(clusters))


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="Shipped cluster, or a YAML file.",
            autocompletion=opt.names_of("cluster"),
            show_default=False,
        ),
    ],
    json: opt.Json = False,
) -> None:
    """Show one cluster: node classes, links between them, price."""
    from planner.cli.output import print_data, print_table
    from planner.cluster import load_cluster
    from planner.report.topology import cluster_report

    cluster = load_cluster(name)
    if json:
        print_data(_data(cluster) | {"links": _links(cluster)})
    else:
        print_table(cluster_report(cluster))


def _data(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "source": cluster.source,
        "sha256": cluster.sha256,
        "gpus": cluster.num_gpus,
        "price_per_hour": cluster.price_per_hour(cluster.gpus),
        "classes": [
            {
                "name": node_class.name,
                "nodes": list(node_class.nodes),
                "device": node_class.device.name,
                "gpus_per_node": node_class.gpus_per_node,
                "intra_link": node_class.intra_link.model_dump(mode="json"),
                "zone": node_class.zone,
                "price_per_gpu_hour": node_class.price_per_gpu_hour,
            }
            for node_class in cluster.classes
        ],
    }


def _links(cluster: Cluster) -> list[dict[str, Any]]:
    """Slowest link between each two classes; within one between two of its nodes, where it has several."""
    return [
        {"between": [here.name, there.name], **cluster.class_link(here, there).model_dump(mode="json")}
        for index, here in enumerate(cluster.classes)
        for there in cluster.classes[index:]
        if here is not there or len(here.nodes) > 1
    ]
