"""Mistakes in a cluster file are named: file, place, what was expected, what to try."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.cluster import load_cluster
from planner.errors import InputError

GOOD = """\
name: mine
nodes:
  - name: big
    count: 2
    gpu: a100_sxm_80
    gpus_per_node: 8
    nic: {bandwidth: 100 Gb/s, latency: 10 us}
    zone: west
  - name: small
    count: 1
    gpu: l4
    gpus_per_node: 2
    nic: {bandwidth: 25 Gb/s, latency: 10 us}
    zone: east
links:
  pairs:
    - {between: [big, small], bandwidth: 10 Gb/s, latency: 1 ms}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_cluster(path)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)
    return caught.value


def test_the_good_file_is_good(tmp_path: Path) -> None:
    cluster = load_cluster(written(tmp_path, GOOD))
    assert cluster.num_gpus == 18
    assert cluster.source == str(tmp_path / "mine.yaml")
    assert len(cluster.sha256) == 64
    assert load_cluster(str(tmp_path / "mine.yaml")).sha256 == cluster.sha256


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("gpu: l4", "gpu: l44", "nodes.1.gpu", "unknown GPU 'l44'"),
        ("100 Gb/s", "-100 Gb/s", "nodes.0.nic.bandwidth", "is negative"),
        ("100 Gb/s", "0 Gb/s", "nodes.0.nic.bandwidth", "is zero"),
        ("100 Gb/s", "100", "nodes.0.nic.bandwidth", "implausibly small"),
        ("100 Gb/s", "900 TB/s", "nodes.0.nic.bandwidth", "implausibly large"),
        ("100 Gb/s", "100 GiB", "nodes.0.nic.bandwidth", "has the unit 'GiB'"),
        ("100 Gb/s", "fast", "nodes.0.nic.bandwidth", "is not a number"),
        ("100 Gb/s", "[1, 2]", "nodes.0.nic.bandwidth", "is not a number"),
        ("100 Gb/s", "true", "nodes.0.nic.bandwidth", "is not a number"),
        ("100 Gb/s", ".nan", "nodes.0.nic.bandwidth", "not finite"),
        ("latency: 10 us", "latency: -1 us", "nodes.0.nic.latency", "is negative"),
        ("latency: 10 us", "latency: 10 GB", "nodes.0.nic.latency", "has the unit 'GB'"),
        ("latency: 10 us", "latency: 10 h", "nodes.0.nic.latency", "implausibly large"),
        ("{bandwidth: 100 Gb/s, latency: 10 us}", "100 Gb/s", "nodes.0.nic", "is not allowed"),
        ("{bandwidth: 100 Gb/s, latency: 10 us}", "{bandwidth: 100 Gb/s}", "nodes.0.nic.latency", "is missing"),
        ("count: 2", "count: 0", "nodes.0.count", "0 nodes"),
        ("count: 2", "count: -2", "nodes.0.count", "-2 nodes"),
        ("count: 2", "count: 1.5", "nodes.0.count", "not a whole number"),
        ("count: 2", "count: yes", "nodes.0.count", "not a whole number"),
        ("gpus_per_node: 8", "gpus_per_node: 0", "nodes.0.gpus_per_node", "0 GPUs"),
        ("gpus_per_node: 8", "gpus_pernode: 8", "nodes.0.gpus_pernode", "not a known field"),
        ("    gpus_per_node: 8\n", "", "nodes.0.gpus_per_node", "is missing"),
        ("    count: 2", "    count: 2\n    color: red", "nodes.0.color", "not a known field"),
        ("    count: 2", "    count: 2\n    intra_link: nvlink33", "nodes.0.intra_link", "unknown link 'nvlink33'"),
        (
            "    count: 2",
            "    count: 2\n    intra_link: {bandwidth: 1 B/s, latency: 0}",
            "nodes.0.intra_link.bandwidth",
            "small",
        ),
        (
            "    count: 2",
            "    count: 2\n    intra_link: {bandwidth: 1 GB/s}",
            "nodes.0.intra_link.latency",
            "is missing",
        ),
        ("    count: 2", "    count: 2\n    intra_matrix: [[1 GB/s]]", "nodes.0", "rows of [1] values"),
        ("    count: 2", "    count: 2\n    price_per_hour: -3", "nodes.0.price_per_hour", "-3 is not allowed"),
        ("name: big", "name: big one", "nodes.0.name", "is not allowed"),
        ("name: small", "name: big", None, "two groups are called 'big'"),
        ("name: small", "name: big-1", None, "'big-1' names a group and a node"),
        ("name: small", "name: west", None, "'west' names a group and a zone"),
        ("between: [big, small]", "between: [big, tiny]", None, "links.pairs.0.between names 'tiny'"),
        ("between: [big, small]", "between: [big]", "links.pairs.0.between.1", "is missing"),
        ("between: [big, small]", "between: [big-0, big-0]", None, "twice"),
        ("10 Gb/s", "-10 Gb/s", "links.pairs.0.bandwidth", "is negative"),
        ("pairs:", "pears:", "links.pears", "not a known field"),
        ("name: mine", "name: mine\nsource: ''", "source", "is not allowed"),
        ("name: mine", "name: mine\ndate: soon", "date", "is not allowed"),
        ("name: mine", "names: mine", "names", "not a known field"),
        ("name: mine\n", "", "name", "is missing"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, old: str, new: str, field: str | None, words: str) -> None:
    assert old in GOOD
    error = refused(written(tmp_path, GOOD.replace(old, new, 1)))
    assert error.field == field
    assert words in error.what
    assert error.expected


def test_an_unknown_gpu_comes_with_suggestions(tmp_path: Path) -> None:
    error = refused(written(tmp_path, GOOD.replace("a100_sxm_80", "a100_sxm_81")))
    assert "a100_sxm_80" in (error.hint or "")
    assert "h100_sxm" in (error.expected or "")


def test_a_misspelt_field_comes_with_the_right_one(tmp_path: Path) -> None:
    error = refused(written(tmp_path, GOOD.replace("    zone: west", "    zonee: west")))
    assert error.field == "nodes.0.zonee"
    assert error.hint == "zone"


def test_the_suspicion_of_a_wrong_unit_is_spoken(tmp_path: Path) -> None:
    error = refused(written(tmp_path, GOOD.replace("100 Gb/s", "100")))
    assert "check the unit" in (error.hint or "")
    assert "'400 Gb/s'" in (error.expected or "")


def test_more_than_one_mistake_is_counted(tmp_path: Path) -> None:
    error = refused(written(tmp_path, GOOD.replace("count: 2", "count: 0").replace("25 Gb/s", "-25 Gb/s")))
    assert error.field == "nodes.0.count"
    assert "1 more field is wrong" in (error.hint or "")


def test_a_pair_given_twice_is_refused(tmp_path: Path) -> None:
    again = "    - {between: [small, big], bandwidth: 1 Gb/s, latency: 1 ms}\n"
    assert "repeats the pair" in refused(written(tmp_path, GOOD + again)).what


def test_no_nodes(tmp_path: Path) -> None:
    error = refused(written(tmp_path, "name: empty\nnodes: []\n"))
    assert (error.field, error.what) == ("nodes", "is empty")


def test_an_asymmetric_matrix(tmp_path: Path) -> None:
    matrix = "    intra_matrix: [[null, 1 GB/s], [2 GB/s, null]]\n    zone: east"
    error = refused(written(tmp_path, GOOD.replace("    zone: east", matrix)))
    assert "GPU 1 to 0" in error.what
    assert error.field == "nodes.1"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("name: x\nnodes: [\n", "line 3, column 1", "is not valid YAML"),
        ("name: x\n  nodes: y\n", "line 2, column 8", "is not valid YAML"),
        ("name: x\nname: y\n", "line 2, column 1", "key 'name' is given twice"),
        ("nodes:\n  - {name: a, name: b}\n", "line 2, column 15", "key 'name' is given twice"),
        ("name: !!python/object:os.system x\n", "line 1", "is not valid YAML"),
        ("name: \t@x\n", "line 1", "is not valid YAML"),
        ("name: x\ndate: 2024-13-45\n", "mine.yaml", "cannot be read"),
    ],
)
def test_broken_yaml_names_line_and_column(tmp_path: Path, text: str, place: str, words: str) -> None:
    error = refused(written(tmp_path, text))
    assert place in str(error.where)
    assert words in error.what


@pytest.mark.parametrize(
    ("text", "words"), [("", "is empty"), ("- a\n", "holds a list"), ("just words\n", "holds a str")]
)
def test_yaml_that_is_no_cluster(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(written(tmp_path, text)).what


def test_a_merge_may_override(tmp_path: Path) -> None:
    text = GOOD.replace(
        "nic: {bandwidth: 100 Gb/s, latency: 10 us}", "nic: &card {bandwidth: 100 Gb/s, latency: 10 us}"
    )
    text = text.replace("nic: {bandwidth: 25 Gb/s, latency: 10 us}", "nic: {<<: *card, bandwidth: 25 Gb/s}")
    small = load_cluster(written(tmp_path, text)).classes[1]
    assert small.nic.bandwidth == 25e9 / 8


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml").what == "no such file"
    assert refused(tmp_path).what == "is a folder"
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(tmp_path / "binary.yaml").what


def test_a_device_profile_beside_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "gpu.yaml").write_text(
        "name: mine\ntitle: Mine\nkind: estimated\nsource: a guess\ndate: '2026'\nvendor: V\nreleased: '2026'\n"
        "memory: 16 GiB\nmemory_bandwidth: 500 GB/s\nflops: {fp16: 50 TFLOP/s}\nlink: pcie4_x16\n",
        encoding="utf-8",
    )
    path = written(tmp_path, GOOD.replace("gpu: l4", "gpu: gpu.yaml"))
    assert load_cluster(path).device_of("small-0/1").memory.value == 16 * 2**30
    (tmp_path / "gpu.yaml").write_text("name: mine\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"gpu\.yaml"):
        load_cluster(written(tmp_path, GOOD.replace("gpu: l4", "gpu: ./gpu.yaml")))
