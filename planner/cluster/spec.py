"""The cluster file: which nodes with which GPUs, and what connects them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from planner.cluster.link import Link
from planner.cluster.loading import UNION_MARK, not_as_expected
from planner.cluster.quantity import Bandwidth, DateText, Kind, Seconds

__all__ = ["ClusterSpec", "LinkRules", "NodeGroup", "PairLink", "Tiers"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""Name of a cluster, group or zone: no spaces and no slash, as GPUs are called ``node/index``."""


def _count(what: str) -> BeforeValidator:
    def read(raw: object) -> object:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise not_as_expected(f"{raw!r} is not a whole number", expected=f"{what}, such as 4")
        if raw < 1:
            raise not_as_expected(
                f"{raw} {what}", expected="1 or more", hint="leave the group out if there is none of it"
            )
        return raw

    return BeforeValidator(read)


def _is_text(raw: object) -> str:
    return UNION_MARK + ("name" if isinstance(raw, str) else "link")


LinkChoice = Annotated[
    Annotated[str, Tag(UNION_MARK + "name")] | Annotated[Link, Tag(UNION_MARK + "link")],
    Discriminator(_is_text),
]
"""A link profile's name, or bandwidth and latency written out."""


class NodeGroup(BaseModel):
    """Equal nodes.

    Parameters
    ----------
    name
        The nodes are called ``name-0``, ``name-1``, …
    count
        How many nodes.
    gpu
        A GPU type, by any spelling that ships, or the path of a device profile, seen from the cluster file.
    gpus_per_node
        How many GPUs in each.
    intra_link
        What connects the GPUs of one node; the GPU type's usual link where nothing is said.
    intra_matrix
        Bandwidth between each two GPUs of one node, where they differ; symmetric, its diagonal is not read.
    nic
        What one node sends and receives over the network, all its GPUs together, and the latency it adds.
    zone
        Where it stands: nodes of one zone may be connected better than others.
    price_per_hour
        USD for one node; the GPU type's public price where nothing is said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    count: Annotated[int, _count("nodes")] = 1
    gpu: str = Field(min_length=1)
    gpus_per_node: Annotated[int, _count("GPUs")]
    intra_link: LinkChoice | None = None
    intra_matrix: tuple[tuple[Bandwidth | None, ...], ...] | None = None
    nic: Link
    zone: Name = "default"
    price_per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _square_and_symmetric(self) -> NodeGroup:
        matrix, size = self.intra_matrix, self.gpus_per_node
        if matrix is None:
            return self
        if len(matrix) != size or any(len(row) != size for row in matrix):
            raise not_as_expected(
                f"intra_matrix of {self.name!r} has rows of {sorted({len(row) for row in matrix})} values",
                expected=f"{size} rows of {size} values, one for each GPU",
            )
        for i in range(size):
            for j in range(i):
                if matrix[i][j] is None or matrix[i][j] != matrix[j][i]:
                    raise not_as_expected(
                        f"intra_matrix of {self.name!r} says {matrix[i][j]} from GPU {i} to {j}, "
                        f"but {matrix[j][i]} back",
                        expected="the same bandwidth in both directions",
                    )
        return self

    @property
    def node_names(self) -> tuple[str, ...]:
        """Names of the group's nodes."""
        return tuple(f"{self.name}-{index}" for index in range(self.count))


class Tiers(BaseModel):
    """Links between nodes by where they stand; they replace what the network cards would allow.

    Parameters
    ----------
    same_zone
        Between two nodes of one zone.
    cross_zone
        Between two nodes of different zones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    same_zone: Link | None = None
    cross_zone: Link | None = None


class PairLink(BaseModel):
    """The link between two places; it replaces tiers and network cards.

    Parameters
    ----------
    between
        Two names, each of a zone, group or node. The same twice means: between any two nodes of it.
    bandwidth, latency
        As in `Link`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    between: tuple[str, str]
    bandwidth: Bandwidth
    latency: Seconds


class LinkRules(BaseModel):
    """Links between nodes. The most specific rule counts: pairs, then tiers, then the slower network card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiers: Tiers = Tiers()
    pairs: tuple[PairLink, ...] = ()


class ClusterSpec(BaseModel):
    """A whole cluster file.

    Parameters
    ----------
    name
        As plans refer to it.
    description
        What it stands for.
    source, kind, date
        Where the description comes from: a real cluster, a paper, an example.
    nodes
        Groups of equal nodes.
    links
        What connects the nodes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    description: str = ""
    source: str = Field(default="own description", min_length=1)
    kind: Kind | Literal["example", "reconstructed"] = "spec"
    date: DateText | None = None
    nodes: tuple[NodeGroup, ...]
    links: LinkRules = LinkRules()

    @field_validator("nodes")
    @classmethod
    def _some_nodes(cls, nodes: tuple[NodeGroup, ...]) -> tuple[NodeGroup, ...]:
        if not nodes:
            raise not_as_expected(
                "is empty", expected="at least one group of nodes, with name, gpu, gpus_per_node and nic"
            )
        return nodes

    @model_validator(mode="after")
    def _names_are_unique(self) -> ClusterSpec:
        meaning: dict[str, str] = {}
        zones = dict.fromkeys(group.zone for group in self.nodes)
        claims = [(group.name, "group") for group in self.nodes]
        claims += [(node, "node") for group in self.nodes for node in group.node_names]
        claims += [(zone, "zone") for zone in zones]
        for name, kind in claims:
            if name in meaning:
                raise not_as_expected(
                    f"{name!r} names a {meaning[name]} and a {kind}"
                    if meaning[name] != kind
                    else f"two {kind}s are called {name!r}",
                    expected="different names for zones, groups and nodes",
                    hint="rename one; the nodes of a group are called name-0, name-1, …",
                )
            meaning[name] = kind
        seen: set[frozenset[str]] = set()
        for index, pair in enumerate(self.links.pairs):
            for end in pair.between:
                if end not in meaning:
                    raise not_as_expected(
                        f"links.pairs.{index}.between names {end!r}, which this cluster does not have",
                        expected=f"a zone, group or node: {_some(list(meaning))}",
                    )
            if meaning[pair.between[0]] == "node" and pair.between[0] == pair.between[1]:
                raise not_as_expected(
                    f"links.pairs.{index}.between names the node {pair.between[0]!r} twice",
                    expected="two different nodes",
                    hint="links inside a node are its group's intra_link",
                )
            if frozenset(pair.between) in seen:
                raise not_as_expected(
                    f"links.pairs.{index} repeats the pair {' and '.join(pair.between)}",
                    expected="each pair once",
                )
            seen.add(frozenset(pair.between))
        return self


def _some(names: list[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
