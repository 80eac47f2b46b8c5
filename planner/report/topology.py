"""Clusters: node classes, the links between them, and the price."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from planner.report.terminal import block, data_table, heading
from planner.report.words import format_link
from planner.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster

__all__ = ["cluster_report", "cluster_table"]


def cluster_table(clusters: Sequence[Cluster]) -> Table:
    """List clusters, one line each."""
    rows = [
        [cluster.source, str(len(cluster.nodes)), str(cluster.num_gpus), _types(cluster), _price(cluster)]
        for cluster in clusters
    ]
    return data_table(["name", ">nodes", ">GPUs", "types", ">USD/h"], rows, fold=("types",))


def cluster_report(cluster: Cluster) -> RenderableType:
    """Describe one cluster."""
    spec = cluster.spec
    facts = {
        "description": " ".join(spec.description.split()),
        "source": f"{' '.join(spec.source.split())} ({spec.kind}, {spec.date})",
        "GPUs": f"{cluster.num_gpus}: {_types(cluster)}",
        "price": f"{_price(cluster)} USD/h" if _price(cluster) else "not known for every GPU",
    }
    parts: list[RenderableType] = [heading(cluster.name), block(facts), _classes(cluster)]
    parts += [
        heading("Links between nodes, per direction; on the diagonal between two nodes of a class"),
        _links(cluster),
    ]
    return Group(*parts)


def _classes(cluster: Cluster) -> Table:
    rows = [
        [
            node_class.name,
            str(len(node_class.nodes)),
            f"{node_class.gpus_per_node} {node_class.device.name}",
            format_bytes(node_class.device.memory.value),
            format_link(node_class.intra_link),
            node_class.zone,
            "" if node_class.price_per_gpu_hour is None else f"{node_class.price_per_gpu_hour:.2f}",
        ]
        for node_class in cluster.classes
    ]
    columns = ["class", ">nodes", "GPUs per node", ">memory", "within a node", "zone", ">USD/h per GPU"]
    return data_table(columns, rows, fold=("class", "zone"))


def _links(cluster: Cluster) -> Table:
    names = [node_class.name for node_class in cluster.classes]
    rows = []
    for here, name in enumerate(names):
        cells = []
        for there, other in enumerate(names):
            if there > here:
                cells.append("")
            elif here == there and len(cluster.classes[here].nodes) == 1:
                cells.append("one node")
            else:
                cells.append(format_link(cluster.class_link(name, other)).replace(", ", "\n"))
        rows.append([name, *cells])
    return data_table(["", *names], rows, fold=names)


def _types(cluster: Cluster) -> str:
    counts = Counter(cluster.device_of(gpu).name for gpu in cluster.gpus)
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _price(cluster: Cluster) -> str:
    price = cluster.price_per_hour(cluster.gpus)
    return "" if price is None else f"{price:.2f}"
