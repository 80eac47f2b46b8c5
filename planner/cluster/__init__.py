"""Clusters: GPU types with what they really deliver, links, and the topology that they form."""

from __future__ import annotations

from planner.cluster.catalog import list_clusters, load_cluster
from planner.cluster.device import DeviceProfile, list_devices, load_device
from planner.cluster.efficiency import AllReduce, Efficiency
from planner.cluster.link import Link, LinkProfile, list_links, load_link
from planner.cluster.quantity import Curve, Quantity
from planner.cluster.spec import ClusterSpec, NodeGroup
from planner.cluster.topology import Cluster, NodeClass

__all__ = [
    "AllReduce",
    "Cluster",
    "ClusterSpec",
    "Curve",
    "DeviceProfile",
    "Efficiency",
    "Link",
    "LinkProfile",
    "NodeClass",
    "NodeGroup",
    "Quantity",
    "list_clusters",
    "list_devices",
    "list_links",
    "load_cluster",
    "load_device",
    "load_link",
]
