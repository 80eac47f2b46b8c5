"""Links between GPUs: what NVLink, PCIe and networks carry, per direction and per GPU."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from planner.cluster.loading import find_file, read_yaml, validated
from planner.cluster.quantity import (
    Bandwidth,
    DateText,
    Kind,
    Quantity,
    Seconds,
    inherit_provenance,
    quantity_in,
)
from planner.resources import resource_dir

__all__ = ["SAME_GPU", "Link", "LinkProfile", "list_links", "load_link", "worst_of"]


class Link(BaseModel):
    """A link as a cluster file states it, or as the topology answers.

    Parameters
    ----------
    bandwidth
        Bytes/s in one direction; in files with a unit: ``"400 Gb/s"``.
    latency
        Seconds for a vanishing message; in files with a unit: ``"5 us"``.

    Examples
    --------
    >>> Link(bandwidth="100 Gb/s", latency="10 us").bandwidth
    12500000000.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bandwidth: Bandwidth
    latency: Seconds

    def time(self, size: float) -> float:
        """Seconds that a message of `size` bytes takes."""
        return self.latency + size / self.bandwidth


SAME_GPU: Final = Link.model_construct(bandwidth=float("inf"), latency=0.0)
"""The "link" of a GPU to itself."""


def worst_of(first: Link, second: Link) -> Link:
    """Combine the lower bandwidth with the higher latency: no better than either."""
    return Link.model_construct(
        bandwidth=min(first.bandwidth, second.bandwidth), latency=max(first.latency, second.latency)
    )


class LinkProfile(BaseModel):
    """A kind of link that devices and clusters refer to by name.

    Parameters
    ----------
    name
        As referred to: ``"nvlink3"``.
    title
        As people know it.
    technology
        What it is made of.
    kind, source, date
        Provenance of the numbers below, unless they bring their own.
    bandwidth
        Bytes/s that one GPU sends in one direction while it receives as much.
    latency
        Seconds for a vanishing message, software included.
    joins
        How many GPUs one such link joins; None for as many as a node has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    technology: Literal["nvlink", "xgmi", "pcie", "ethernet", "infiniband", "memory"]
    kind: Kind
    source: str = Field(min_length=1)
    date: DateText
    note: str = ""
    bandwidth: Annotated[Quantity, quantity_in("bandwidth")]
    latency: Annotated[Quantity, quantity_in("time")]
    joins: int | None = Field(default=None, ge=2)

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: object) -> object:
        return inherit_provenance(data, ("bandwidth", "latency"))

    def link(self) -> Link:
        """Return the bare numbers."""
        return Link.model_construct(bandwidth=self.bandwidth.value, latency=self.latency.value)


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted((resource_dir("profiles") / "links").glob("*.yaml"))}


def list_links() -> tuple[str, ...]:
    """Names of the link profiles that ship.

    Examples
    --------
    >>> "nvlink3" in list_links()
    True
    """
    return tuple(_shipped())


def load_link(name_or_path: str | Path) -> LinkProfile:
    """Load a link profile that ships, or one's own file.

    Parameters
    ----------
    name_or_path
        ``"nvlink3"``, or a path.

    Raises
    ------
    InputError
        If there is none of that name, or the file is wrong.

    Examples
    --------
    >>> load_link("nvlink3").bandwidth.value
    300000000000.0
    """
    path = find_file(name_or_path, _shipped(), "link")
    data, _ = read_yaml(path, "link profile")
    return validated(LinkProfile, data, path)
