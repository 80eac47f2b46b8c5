"""Every data file that ships says where it comes from, and loads."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.cluster import list_clusters, list_devices, list_links, load_cluster, load_device, load_link
from planner.cluster.surface import read_surfaces
from planner.resources import resource_dir

KINDS = {"spec", "measured", "fitted", "estimated"}
CLUSTER_KINDS = KINDS | {"example", "reconstructed"}
DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")

PROFILES, TOPOLOGIES = resource_dir("profiles"), resource_dir("topologies")
FILES = sorted(path for root in (PROFILES, TOPOLOGIES) for path in root.rglob("*") if path.is_file())
DATA = [path for path in FILES if path.suffix != ".md"]


def described(path: Path) -> dict[str, Any]:
    """The mapping that tells a file's source: the file itself, or the .yaml beside a table."""
    if path.name.endswith((".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".npz")):
        path = path.with_name(path.name.split(".")[0] + ".yaml")
        assert path.is_file(), f"a table needs {path.name} beside it, which tells its source"
    text = path.read_text(encoding="utf-8")
    data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    assert isinstance(data, dict)
    return data


def identify(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def test_there_are_files_of_every_sort() -> None:
    kinds = {(path.parent.name, "".join(path.suffixes[-2:])) for path in DATA}
    assert {("devices", ".yaml"), ("links", ".yaml"), ("geo", ".yaml")} <= kinds
    assert len(DATA) > 60


@pytest.mark.parametrize("path", DATA, ids=identify)
def test_tells_source_kind_and_date(path: Path) -> None:
    data = described(path)
    assert isinstance(data.get("source"), str)
    assert len(data["source"].strip()) > 10, "a source that can be looked up"
    # measured tables, and surfaces fitted to them, need not say so
    kind = data.get("kind", "measured" if "table" in data else "fitted" if "surfaces" in data else None)
    assert kind in (CLUSTER_KINDS if TOPOLOGIES in path.parents else KINDS)
    assert DATE.fullmatch(str(data.get("date"))), "a date, YYYY[-MM[-DD]]"


@pytest.mark.parametrize("path", DATA, ids=identify)
def test_is_text_of_a_known_sort(path: Path) -> None:
    if path.suffix == ".npz":
        assert read_surfaces(path)
        return
    assert path.name.endswith((".yaml", ".json", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")), "an unknown sort of file"
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    assert text.strip()
    assert not re.search(r"(^|[\s\"'(])/(home|root|tmp|usr|var|work)\b", text), "a path of somebody's machine"


def test_numbers_inside_bring_their_whole_provenance_or_none() -> None:
    def check(node: object, where: str) -> None:
        if isinstance(node, dict):
            if "value" in node and "source" in node:
                assert {"kind", "date"} <= node.keys(), f"{where} has a source, but no kind or date"
                assert node["kind"] in KINDS, where
            for key, inner in node.items():
                check(inner, f"{where}.{key}")

    for path in DATA:
        if path.suffix == ".yaml":
            check(described(path), identify(path))


def test_every_device_file_is_listed_and_loads() -> None:
    stems = {path.stem for path in (PROFILES / "devices").glob("*.yaml") if not path.stem.startswith("_")}
    assert stems == set(list_devices())
    for name in list_devices():
        device = load_device(name)
        assert device.name == name, "a file is called as the device in it"
        for quantity in (device.memory, device.memory_bandwidth, *device.flops.values()):
            assert quantity.source
            assert quantity.kind in KINDS
        assert set(device.flops) <= set(device.efficiency.gemm), "a GEMM curve for each format"
        load_link(device.link)
        if device.pcie is not None:
            load_link(device.pcie)


def test_every_link_file_loads() -> None:
    assert set(list_links()) == {path.stem for path in (PROFILES / "links").glob("*.yaml")}
    for name in list_links():
        assert load_link(name).name == name


def test_every_cluster_file_loads_by_a_unique_name() -> None:
    stems = [path.stem for path in TOPOLOGIES.rglob("*.yaml")]
    assert len(stems) == len(set(stems)), "two folders hold a cluster of the same name"
    assert sorted(stems) == list(list_clusters())
    for name in list_clusters():
        cluster = load_cluster(name)
        assert cluster.name == cluster.source == name
        assert cluster.spec.description


def test_no_efficiency_file_is_left_unused() -> None:
    used = {
        Path(str(yaml.safe_load(path.read_text(encoding="utf-8")).get("efficiency"))).name
        for path in (PROFILES / "devices").glob("*.yaml")
    }
    assert {path.name for path in (PROFILES / "devices" / "_efficiency").iterdir()} <= used
