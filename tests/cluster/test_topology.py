"""The views of a cluster agree with each other and with a plain reading of the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import Cluster, ClusterSpec, load_cluster
from planner.errors import InputError

GBIT = 1e9 / 8
bandwidths = st.sampled_from([0.1, 1.0, 10.0, 25.0, 100.0, 400.0]).map(lambda gbit: f"{gbit} Gb/s")
latencies = st.sampled_from(["0 us", "1 us", "50 us", "2 ms"])
links = st.fixed_dictionaries({"bandwidth": bandwidths, "latency": latencies})


def cluster_of(data: dict[str, Any]) -> Cluster:
    return Cluster.from_spec(ClusterSpec.model_validate(data), source="test", sha256="")


@st.composite
def descriptions(draw: st.DrawFn) -> dict[str, Any]:
    nodes = []
    for index in range(draw(st.integers(1, 4))):
        group = {
            "name": f"g{index}",
            "count": draw(st.integers(1, 3)),
            "gpu": draw(st.sampled_from(["a100_sxm_80", "l4", "t4", "h100_sxm"])),
            "gpus_per_node": draw(st.integers(1, 4)),
            "nic": draw(links),
            "zone": draw(st.sampled_from(["west", "east"])),
        }
        if draw(st.booleans()):
            group["intra_link"] = draw(st.one_of(st.just("nvlink3"), links))
        nodes.append(group)
    names = [group["name"] for group in nodes] + sorted({group["zone"] for group in nodes})
    names += [f"{group['name']}-{i}" for group in nodes for i in range(group["count"])]
    pairs, seen = [], set()
    for _ in range(draw(st.integers(0, 5))):
        between = (draw(st.sampled_from(names)), draw(st.sampled_from(names)))
        if frozenset(between) in seen or (between[0] == between[1] and "-" in between[0]):
            continue
        seen.add(frozenset(between))
        pairs.append({"between": list(between), **draw(links)})
    tiers = {name: draw(links) for name in ("same_zone", "cross_zone") if draw(st.booleans())}
    return {"name": "random", "nodes": nodes, "links": {"tiers": tiers, "pairs": pairs}}


def plainly(data: dict[str, Any], node_a: str, node_b: str) -> tuple[float, float]:
    """Bandwidth and latency between two nodes, by going through every rule of the file."""
    groups = {f"{g['name']}-{i}": g for g in data["nodes"] for i in range(g["count"])}
    order = list(groups)
    if order.index(node_a) > order.index(node_b):
        node_a, node_b = node_b, node_a

    def level(name: str, node: str) -> int | None:
        names = [node, groups[node]["name"], groups[node]["zone"]]
        return names.index(name) if name in names else None

    matches = []
    for pair in data["links"]["pairs"]:
        for first, second in (pair["between"], pair["between"][::-1]):
            a, b = level(first, node_a), level(second, node_b)
            if a is not None and b is not None:
                matches.append(((min(a, b), max(a, b), a), pair))
    spec = ClusterSpec.model_validate(data)
    if matches:
        chosen = min(matches, key=lambda match: match[0])[1]
        rule = next(p for p in spec.links.pairs if list(p.between) == chosen["between"])
        return rule.bandwidth, rule.latency
    same = groups[node_a]["zone"] == groups[node_b]["zone"]
    tier = spec.links.tiers.same_zone if same else spec.links.tiers.cross_zone
    if tier is not None:
        return tier.bandwidth, tier.latency
    nic = {g.name: g.nic for g in spec.nodes}
    a_nic, b_nic = nic[groups[node_a]["name"]], nic[groups[node_b]["name"]]
    return min(a_nic.bandwidth, b_nic.bandwidth), a_nic.latency + b_nic.latency


@settings(max_examples=150, deadline=None)
@given(descriptions())
def test_views_agree(data: dict[str, Any]) -> None:
    cluster = cluster_of(data)
    bandwidth_DD, latency_DD = cluster.bandwidth_DD(), cluster.latency_DD()
    assert bandwidth_DD.shape == latency_DD.shape == (cluster.num_gpus, cluster.num_gpus)
    np.testing.assert_array_equal(bandwidth_DD, bandwidth_DD.T)
    np.testing.assert_array_equal(latency_DD, latency_DD.T)
    assert np.isinf(np.diag(bandwidth_DD)).all()
    assert (np.diag(latency_DD) == 0).all()
    for i, gpu_a in enumerate(cluster.gpus):
        for j, gpu_b in enumerate(cluster.gpus):
            link = cluster.link(gpu_a, gpu_b)
            assert (link.bandwidth, link.latency) == (bandwidth_DD[i, j], latency_DD[i, j])
            node_a, node_b = cluster.node_of(gpu_a), cluster.node_of(gpu_b)
            if node_a != node_b:
                assert (link.bandwidth, link.latency) == plainly(data, node_a, node_b)
                assert link == cluster.node_link(node_a, node_b)


@settings(max_examples=60, deadline=None)
@given(descriptions())
def test_group_and_class_links_are_the_worst_of_their_pairs(data: dict[str, Any]) -> None:
    cluster = cluster_of(data)
    bandwidth_DD, latency_DD = cluster.bandwidth_DD(), cluster.latency_DD()
    worst = cluster.group_link(cluster.gpus)
    assert worst.bandwidth == bandwidth_DD.min()
    assert worst.latency == latency_DD.max()
    for first in cluster.classes:
        for second in cluster.classes:
            pairs = [cluster.node_link(a, b) for a in first.nodes for b in second.nodes if a != b]
            link = cluster.class_link(first, second.name)
            assert link == cluster.class_link(second, first)
            if pairs:
                assert link.bandwidth == min(pair.bandwidth for pair in pairs)
                assert link.latency == max(pair.latency for pair in pairs)
            else:
                assert link == first.intra_link


@settings(max_examples=60, deadline=None)
@given(descriptions(), st.data())
def test_a_subset_keeps_names_and_links(data: dict[str, Any], choice: st.DataObject) -> None:
    cluster = cluster_of(data)
    nodes = choice.draw(st.lists(st.sampled_from(cluster.nodes), min_size=1, unique=True))
    part = cluster.subset(nodes)
    assert set(part.nodes) == set(nodes)
    assert part.gpus == tuple(gpu for gpu in cluster.gpus if cluster.node_of(gpu) in nodes)
    for gpu_a in part.gpus:
        assert part.device_of(gpu_a) is cluster.device_of(gpu_a)
        for gpu_b in part.gpus:
            assert part.link(gpu_a, gpu_b) == cluster.link(gpu_a, gpu_b)


def test_a_link_a_thousand_times_slower_shows_everywhere() -> None:
    data: dict[str, Any] = {
        "name": "two",
        "nodes": [
            {
                "name": n,
                "count": 2,
                "gpu": "l4",
                "gpus_per_node": 2,
                "nic": {"bandwidth": "100 Gb/s", "latency": "5 us"},
            }
            for n in ("a", "b")
        ],
    }
    slow = data | {"links": {"pairs": [{"between": ["a-1", "b-0"], "bandwidth": "100 Mb/s", "latency": "5 ms"}]}}
    before, after = cluster_of(data), cluster_of(slow)
    assert before.class_link("a", "b").bandwidth == 100 * GBIT
    assert after.class_link("a", "b").bandwidth == pytest.approx(before.class_link("a", "b").bandwidth / 1000)
    assert after.link("a-1/0", "b-0/1").latency == 5e-3
    assert after.link("a-0/0", "b-0/1") == before.link("a-0/0", "b-0/1")
    changed = after.bandwidth_DD() != before.bandwidth_DD()
    assert changed.sum() == 2 * 2 * 2
    assert after.group_link(["a-1/0", "b-0/0"]).bandwidth < before.group_link(["a-1/0", "b-0/0"]).bandwidth / 999


def test_pairs_go_from_node_to_group_to_zone() -> None:
    nic = {"bandwidth": "100 Gb/s", "latency": "5 us"}
    data: dict[str, Any] = {
        "name": "levels",
        "nodes": [
            {"name": "a", "count": 2, "gpu": "l4", "gpus_per_node": 1, "nic": nic, "zone": "west"},
            {"name": "b", "count": 2, "gpu": "t4", "gpus_per_node": 1, "nic": nic, "zone": "east"},
        ],
        "links": {
            "tiers": {"cross_zone": {"bandwidth": "1 Gb/s", "latency": "9 ms"}},
            "pairs": [
                {"between": ["west", "east"], "bandwidth": "2 Gb/s", "latency": "1 ms"},
                {"between": ["a", "b"], "bandwidth": "3 Gb/s", "latency": "1 ms"},
                {"between": ["b-1", "west"], "bandwidth": "4 Gb/s", "latency": "1 ms"},
                {"between": ["a-1", "b-1"], "bandwidth": "5 Gb/s", "latency": "1 ms"},
                {"between": ["a", "a"], "bandwidth": "6 Gb/s", "latency": "1 ms"},
            ],
        },
    }
    cluster = cluster_of(data)
    found = {
        pair: cluster.node_link(*pair).bandwidth / GBIT for pair in [("a-0", "b-0"), ("a-0", "b-1"), ("b-1", "a-1")]
    }
    assert found == {("a-0", "b-0"): 3, ("a-0", "b-1"): 4, ("b-1", "a-1"): 5}
    assert cluster.node_link("a-0", "a-1").bandwidth == 6 * GBIT
    assert cluster.node_link("b-0", "b-1").bandwidth == 100 * GBIT  # no rule: the network cards
    assert cluster.node_link("b-0", "b-1").latency == pytest.approx(10e-6)


def test_intra_matrix_gives_each_pair_its_own_bandwidth() -> None:
    cluster = cluster_of(
        {
            "name": "bridged",
            "nodes": [
                {
                    "name": "n",
                    "gpu": "rtx_3090",
                    "gpus_per_node": 3,
                    "nic": {"bandwidth": "10 Gb/s", "latency": "5 us"},
                    "intra_matrix": [
                        [None, "56 GB/s", "10 GB/s"],
                        ["56 GB/s", None, "10 GB/s"],
                        ["10 GB/s", "10 GB/s", None],
                    ],
                }
            ],
        }
    )
    assert cluster.link("n-0/0", "n-0/1").bandwidth == 56e9
    assert cluster.link("n-0/2", "n-0/1").bandwidth == 10e9
    assert cluster.classes[0].intra_link.bandwidth == 10e9
    assert cluster.group_link(["n-0/0", "n-0/1"]).bandwidth == 56e9
    assert np.isinf(cluster.link("n-0/0", "n-0/0").bandwidth)


def test_graph_carries_the_same_figures() -> None:
    cluster = load_cluster("helix-3region-24")
    graph = cluster.graph()
    levels = [level for _, level in graph.nodes(data="level")]
    assert (levels.count("gpu"), levels.count("node"), levels.count("zone")) == (24, 24, 3)
    assert graph.edges["a100-0", "t4-west-3"]["bandwidth"] == 12.5e6
    assert graph.nodes["a100-0/0"]["device"] == "a100_sxm_40"
    single = load_cluster("4xl4").graph()
    assert (
        single.edges["node-0/0", "node-0/3"]["bandwidth"] == load_cluster("4xl4").link("node-0/0", "node-0/3").bandwidth
    )


def test_prices() -> None:
    cluster = load_cluster("a100-l40s-l4-24")
    assert cluster.price_per_hour(["a100-0/0", "l4-0/1"]) == pytest.approx(27.44705 / 8 + 4.6016 / 4)
    assert load_cluster("hexgen-58").price_per_hour(["a6000-0/0"]) is None
    own = cluster_of(
        {
            "name": "own",
            "nodes": [
                {
                    "name": "n",
                    "gpu": "rtx_a6000",
                    "gpus_per_node": 4,
                    "price_per_hour": 2,
                    "nic": {"bandwidth": "1 Gb/s", "latency": 0},
                }
            ],
        }
    )
    assert own.price_per_hour(own.gpus) == 2
    assert own.classes[0].price_per_gpu_hour == 0.5


def test_unknown_names_are_refused() -> None:
    cluster = load_cluster("a100-l40s-l4-24")
    for wrong in ("a100-0/8", "a100-0", "a100-1/0", "a100-0/-1", "a100-0/00"):
        with pytest.raises(InputError, match="has no GPU"):
            cluster.device_of(wrong)
    with pytest.raises(InputError, match="unknown node 'l4-7'"):
        cluster.class_of_node("l4-7")
    with pytest.raises(InputError, match="unknown node class 'h100'"):
        cluster.class_link("a100", "h100")
    with pytest.raises(InputError, match="no node of cluster"):
        cluster.subset([])
    with pytest.raises(InputError, match="unknown cluster 'a100-l40s-l4'"):
        load_cluster("a100-l40s-l4")


PAPER_CLUSTERS = {
    "helix-10": (10, {"l4": 4, "t4": 6}),
    "helix-24": (24, {"a100_sxm_40": 4, "l4": 8, "t4": 12}),
    "helix-3region-24": (24, {"a100_sxm_40": 4, "l4": 8, "t4": 12}),
    "helix-42": (42, {"a100_sxm_40": 4, "v100_sxm_16": 6, "l4": 16, "t4": 38}),
    "hexgen-58": (9, {"rtx_a6000": 16, "rtx_a5000": 16, "a40": 4, "rtx_3090": 22}),
    "metis-16": (4, {"a100_sxm_40": 8, "t4": 8}),
    "metis-64": (16, {"a100_sxm_40": 16, "v100_sxm_16": 16, "t4": 32}),
    "sailor-128": (32, {"a100_sxm_40": 32, "v100_sxm_16": 96}),
    "sailor-512": (128, {"a100_sxm_40": 128, "v100_sxm_16": 384}),
}


@pytest.mark.parametrize("name", PAPER_CLUSTERS)
def test_paper_clusters_have_their_sizes(name: str) -> None:
    cluster = load_cluster(name)
    nodes, gpus = PAPER_CLUSTERS[name]
    counted: dict[str, int] = {}
    for node_class in cluster.classes:
        counted[node_class.device.name] = counted.get(node_class.device.name, 0) + node_class.num_gpus
    assert (len(cluster.nodes), counted) == (nodes, gpus)


def test_sailor_links_are_the_ends_of_its_fits() -> None:
    cluster = load_cluster("sailor-128")
    assert cluster.class_link("a100", "a100").bandwidth == 6.036e9
    assert cluster.class_link("a100", "v100").bandwidth == 5.787e9  # its slower end, as in the mixed fits
    assert cluster.link("v100-0/0", "v100-0/3").bandwidth == 68.2e9
