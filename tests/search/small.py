"""Small problems to search in."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from planner.cluster import Cluster, load_cluster
from planner.model import ModelSpec, load_model

__all__ = ["cluster_text", "cluster_with_links", "examples", "small_cluster", "tiny_model"]


def examples(few: int, many: int) -> int:
    """How many random instances: `many` where HETPLAN_MANY is set."""
    return many if os.environ.get("HETPLAN_MANY") else few


def tiny_model(*, layers: int = 8, hidden: int = 2048, heads: int = 16, kv_heads: int = 8) -> ModelSpec:
    """A Llama of about a billion parameters at 8 layers."""
    config = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 32000,
        "max_position_embeddings": 8192,
        "torch_dtype": "float16",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return load_model(path)


def cluster_text(classes: list[tuple[str, int, int]], *, bandwidth: str = "100 Gb/s", price: bool = True) -> str:
    """YAML of a cluster with node groups (GPU, GPUs per node, nodes), named g0, g1 …"""
    lines = ["name: small", "source: made for a test", "kind: example", 'date: "2026-11"', "nodes:"]
    for index, (gpu, size, count) in enumerate(classes):
        lines += [
            f"  - name: g{index}",
            f"    count: {count}",
            f"    gpu: {gpu}",
            f"    gpus_per_node: {size}",
            f"    nic: {{bandwidth: {bandwidth}, latency: 10 us}}",
        ]
        if price:
            lines.append(f"    price_per_hour: {size * (index + 1)}")
    return "\n".join(lines) + "\n"


def small_cluster(classes: list[tuple[str, int, int]], *, bandwidth: str = "100 Gb/s") -> Cluster:
    """A cluster with node groups (GPU, GPUs per node, nodes)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.yaml"
        path.write_text(cluster_text(classes, bandwidth=bandwidth), encoding="utf-8")
        return load_cluster(path)


def cluster_with_links(
    classes: list[tuple[str, int, int, str]],
    *,
    nics: list[str],
    tiers: dict[str, tuple[str, str]],
    pairs: dict[tuple[str, str], tuple[str, str]] | None = None,
) -> Cluster:
    """A cluster of slow or unequal links.

    Parameters
    ----------
    classes
        GPU, GPUs per node, nodes, zone.
    nics
        Bandwidth of each class's network card.
    tiers, pairs
        Bandwidth and latency by tier, and by pair of node names such as ``g0-1``.
    """
    lines = ["name: linked", "source: made for a test", "kind: example", 'date: "2026-11"', "nodes:"]
    for index, ((gpu, size, count, zone), nic) in enumerate(zip(classes, nics, strict=True)):
        lines += [
            f"  - name: g{index}",
            f"    count: {count}",
            f"    gpu: {gpu}",
            f"    gpus_per_node: {size}",
            f"    nic: {{bandwidth: {nic}, latency: 10 us}}",
            f"    zone: {zone}",
        ]
    lines += ["links:", *(["  tiers:"] if tiers else [])]
    lines += [f"    {tier}: {{bandwidth: {speed}, latency: {late}}}" for tier, (speed, late) in tiers.items()]
    lines += ["  pairs:"] if pairs else []
    for (a, b), (speed, late) in (pairs or {}).items():
        lines.append(f"    - {{between: [{a}, {b}], bandwidth: {speed}, latency: {late}}}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "linked.yaml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return load_cluster(path)
