"""Equal nodes of a cluster, with their GPU type and links looked up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from planner.cluster.device import DeviceProfile, load_device
from planner.cluster.link import SAME_GPU, Link, LinkProfile, load_link
from planner.cluster.spec import NodeGroup
from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

ProfileT = TypeVar("ProfileT")

__all__ = ["NodeClass", "node_class_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeClass:
    """Equal nodes: a group of the cluster file, with its GPU type and links looked up.

    Parameters
    ----------
    name
        The group's name.
    device
        Its GPU type.
    gpus_per_node
        How many of them in each node.
    nodes
        Names of the nodes.
    intra_link
        Between two GPUs of one node; the slowest two where they differ.
    intra_matrix
        Bandwidth between each two GPUs of one node in bytes/s, where they differ.
    nic
        A node's connection to the network.
    zone
        Where they stand.
    price_per_gpu_hour
        USD, or None where nobody said.
    """

    name: str
    device: DeviceProfile
    gpus_per_node: int
    nodes: tuple[str, ...]
    intra_link: Link
    intra_matrix: tuple[tuple[float | None, ...], ...] | None = None
    nic: Link
    zone: str
    price_per_gpu_hour: float | None

    @property
    def num_gpus(self) -> int:
        """All GPUs of the class."""
        return self.gpus_per_node * len(self.nodes)

    def link_between(self, index_a: int, index_b: int) -> Link:
        """Link between two GPUs of one node, by their index."""
        if index_a == index_b:
            return SAME_GPU
        bandwidth = None if self.intra_matrix is None else self.intra_matrix[index_a][index_b]
        if bandwidth is None:
            return self.intra_link
        return Link.model_construct(bandwidth=bandwidth, latency=self.intra_link.latency)


def node_class_of(group: NodeGroup, index: int, source: str, folder: Path | None) -> NodeClass:
    """Look up what a group of the cluster file names.

    Parameters
    ----------
    group
        The group.
    index
        Its position in the file, for messages.
    source
        The file, for messages.
    folder
        Where relative paths of device profiles start.

    Raises
    ------
    InputError
        If its GPU type or link is unknown; names the field.
    """
    device = _looked_up(load_device, group.gpu, folder, source, f"nodes.{index}.gpu")
    matrix = group.intra_matrix
    if isinstance(group.intra_link, Link):
        intra = group.intra_link
    else:
        profile = load_link(device.link)
        if group.intra_link is not None:
            profile = _looked_up(load_link, group.intra_link, folder, source, f"nodes.{index}.intra_link")
        intra = profile.link()
        if matrix is None and profile.joins is not None and profile.joins < group.gpus_per_node:
            matrix = _bridged(profile, device, group.gpus_per_node)
    if matrix is not None:
        off_diagonal = [
            value for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j and value is not None
        ]
        if off_diagonal:
            intra = Link.model_construct(bandwidth=min(off_diagonal), latency=intra.latency)
    price = None if device.price_per_hour is None else device.price_per_hour.value
    if group.price_per_hour is not None:
        price = group.price_per_hour / group.gpus_per_node
    return NodeClass(
        name=group.name,
        device=device,
        gpus_per_node=group.gpus_per_node,
        nodes=group.node_names,
        intra_link=intra,
        intra_matrix=matrix,
        nic=group.nic,
        zone=group.zone,
        price_per_gpu_hour=price,
    )


def _bridged(bridge: LinkProfile, device: DeviceProfile, gpus: int) -> tuple[tuple[float | None, ...], ...]:
    """Bandwidths where neighbours are bridged, 0 with 1 and 2 with 3, and all others meet over PCIe."""
    host = load_link(device.pcie).bandwidth.value if device.pcie else bridge.bandwidth.value
    joins = bridge.joins or gpus
    return tuple(
        tuple(None if i == j else bridge.bandwidth.value if i // joins == j // joins else host for j in range(gpus))
        for i in range(gpus)
    )


def _looked_up(
    load: Callable[[str | Path], ProfileT], name: str, folder: Path | None, source: str, field: str
) -> ProfileT:
    """Load a profile that a cluster file names; an unknown name becomes an error about that field."""
    target: str | Path = name
    if Path(name).suffix in {".yaml", ".yml"}:
        target = Path(name) if folder is None else folder / name
    try:
        return load(target)
    except InputError as error:
        if error.where is not None:  # the profile itself is wrong: its own place says more
            raise
        raise InputError(error.what, where=source, field=field, expected=error.expected, hint=error.hint) from None
