"""Clusters by name or by file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from planner.cluster.loading import find_file, read_yaml, validated
from planner.cluster.spec import ClusterSpec
from planner.cluster.topology import Cluster
from planner.resources import resource_dir, sha256_of

__all__ = ["list_clusters", "load_cluster"]


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(resource_dir("topologies").rglob("*.yaml"), key=lambda p: p.stem)}


def list_clusters() -> tuple[str, ...]:
    """Names of the clusters that ship, sorted.

    Examples
    --------
    >>> "a100-l40s-l4-24" in list_clusters()
    True
    """
    return tuple(_shipped())


def load_cluster(name_or_path: str | Path) -> Cluster:
    """Load a cluster that ships, or one's own file.

    Parameters
    ----------
    name_or_path
        ``"a100-l40s-l4-24"``, or the path of a cluster file.

    Returns
    -------
    Cluster
        With GPU types and links looked up.

    Raises
    ------
    InputError
        If there is none of that name; if the file is missing, is no YAML (with line and column), or has a
        wrong field (with its dotted name and what was expected).

    Examples
    --------
    >>> load_cluster("a100-l40s-l4-24").nodes
    ('a100-0', 'l40s-0', 'l40s-1', 'l4-0', 'l4-1')
    """
    path = find_file(name_or_path, _shipped(), "cluster")
    data, text = read_yaml(path, "cluster")
    spec = validated(ClusterSpec, data, path)
    source = path.stem if _shipped().get(path.stem) == path else str(path)
    return Cluster.from_spec(spec, source=source, sha256=sha256_of(text), folder=path.parent)
