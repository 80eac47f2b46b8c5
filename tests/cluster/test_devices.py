"""Device and link profiles: what they say, how they are found, how efficiencies are inherited."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.cluster import DeviceProfile, list_devices, load_device, load_link
from planner.errors import InputError
from planner.resources import resource_dir

NEEDED = {
    "v100_sxm_16",
    "v100_sxm_32",
    "t4",
    "a10g",
    "a30",
    "a40",
    "a100_sxm_40",
    "a100_sxm_80",
    "a100_pcie_40",
    "a100_pcie_80",
    "l4",
    "l40s",
    "rtx_3090",
    "rtx_4090",
    "rtx_a6000",
    "rtx_pro_6000",
    "h100_sxm",
    "h100_pcie",
    "h200",
    "b200",
    "gh200",
    "mi300x",
}

MINIMAL = """
name: mine
title: Mine
kind: measured
source: a benchmark of my own
date: 2026-01-15
vendor: NVIDIA
released: "2026-01"
memory: 80 GiB
memory_bandwidth: 2 TB/s
flops: {fp16: 300 TFLOP/s}
link: pcie4_x16
"""


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_common_gpus_ship() -> None:
    assert set(list_devices()) >= NEEDED


def test_data_sheet_figures() -> None:
    a100 = load_device("a100_sxm_80")
    assert a100.memory.value == 80 * 2**30
    assert a100.memory_bandwidth.value == 2039e9
    assert a100.flops["bf16"].value == 312e12
    assert load_device("h100_sxm").flops["fp8"].value == 1979e12  # dense: half of the 3,958 with sparsity
    assert load_device("l4").flops["bf16"].value == 121e12  # half of 242
    assert load_device("rtx_4090").flops["fp16"].value == 165.2e12  # fp32 accumulation: half of 330


@pytest.mark.parametrize("name", ["v100_sxm_16", "v100_sxm_32", "t4", "titan_rtx", "rtx_2080_ti"])
def test_gpus_before_ampere_have_no_bf16(name: str) -> None:
    assert "bf16" not in load_device(name).flops


@pytest.mark.parametrize("name", list_devices())
def test_figures_are_plausible(name: str) -> None:
    device = load_device(name)
    balance = device.flops["fp16"].value / device.memory_bandwidth.value  # FLOP per byte
    assert 30 < balance < 600
    assert device.flops["fp16"].value > device.flops["fp32"].value
    assert 8 * 2**30 < device.memory.value < 300 * 2**30
    if device.price_per_hour is not None:
        assert 0.2 < device.price_per_hour.value < 20
        assert "us-east-1" in device.price_per_hour.source


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("NVIDIA-A100-SXM4-40GB", "a100_sxm_40"),
        ("nvidia a100-sxm4-80gb", "a100_sxm_80"),
        ("Tesla T4", "t4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx_4090"),
        ("L4", "l4"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx_pro_6000"),
    ],
)
def test_other_spellings_are_found(alias: str, name: str) -> None:
    assert load_device(alias).name == name


def test_no_spelling_stands_for_two_devices() -> None:
    owner: dict[str, str] = {}
    for name in list_devices():
        device = load_device(name)
        for spelling in (name, device.title, *device.aliases):
            assert load_device(spelling).name == name
            assert owner.setdefault(spelling.lower(), name) == name


def test_unknown_gpu_lists_the_known_and_suggests_the_closest() -> None:
    with pytest.raises(InputError) as caught:
        load_device("h100_sxn")
    assert caught.value.what == "unknown GPU 'h100_sxn'"
    assert "a100_sxm_80" in (caught.value.expected or "")
    assert "h100_sxm" in (caught.value.hint or "")


def test_measured_devices_have_measured_curves() -> None:
    for name in ("a100_sxm_80", "h100_sxm", "h200", "b200", "l40s", "rtx_pro_6000"):
        efficiency = load_device(name).efficiency
        assert efficiency.kind == efficiency.gemm["bf16"].kind == efficiency.prefill_attention.kind == "measured"
        assert set(efficiency.all_reduce) == {2, 4, 8}
        assert efficiency.elementwise.kind == "estimated"


def test_all_reduce_gives_back_both_ends() -> None:
    for name in ("a100_sxm_80", "h100_sxm", "b200", "l40s"):
        for number, entry in load_device(name).efficiency.all_reduce.items():
            assert entry.seconds is not None
            for size, seconds in list(zip(entry.seconds.x, entry.seconds.y, strict=True))[::2]:
                time = entry.latency.value + 2 * (number - 1) / number * size / entry.bandwidth.value
                assert time == pytest.approx(seconds, rel=2e-3)


def test_loans_are_labelled_and_leave_all_reduce_behind() -> None:
    own, lent = load_device("l40s").efficiency, load_device("l4").efficiency
    assert lent.gemm["bf16"].y == own.gemm["bf16"].y
    assert lent.kind == lent.gemm["bf16"].kind == lent.decode_attention.kind == "estimated"
    assert lent.gemm["bf16"].error == max(0.3, own.gemm["bf16"].error)
    assert lent.gemm["bf16"].source.startswith("taken from l40s")
    assert lent.all_reduce == {}
    same_links = load_device("a100_sxm_40").efficiency.all_reduce
    assert {entry.bandwidth.kind for entry in same_links.values()} == {"estimated"}


def test_a_format_that_was_not_measured_borrows_and_says_so() -> None:
    gemm = load_device("a100_sxm_80").efficiency.gemm
    assert gemm["fp16"] == gemm["bf16"]  # the same units at the same rate
    assert gemm["int8"].kind == "estimated"
    assert gemm["int8"].error >= 0.3
    assert "bf16 curve used for int8" in gemm["int8"].source


def test_default_error_comes_from_leaving_each_gpu_out(tmp_path: Path) -> None:
    efficiency = load_device(written(tmp_path, MINIMAL)).efficiency
    assert efficiency.kind == "estimated"
    assert 0.05 < efficiency.gemm["fp16"].error < 0.3
    assert "each measured GPU against the median of the others" in efficiency.gemm["fp16"].error_basis


def test_own_profile_inherits_the_provenance_at_its_top(tmp_path: Path) -> None:
    device = load_device(written(tmp_path, MINIMAL))
    assert isinstance(device, DeviceProfile)
    assert device.date == device.memory.date == "2026-01-15"
    assert device.memory.kind == "measured"
    assert device.flops["fp16"].source == "a benchmark of my own"


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("80 GiB", "80", "memory", "implausibly small"),
        ("80 GiB", "80 Gb/s", "memory", "has the unit 'Gb/s'"),
        ("80 GiB", "-80 GiB", "memory", "negative"),
        ("2 TB/s", "2000 TB/s", "memory_bandwidth", "implausibly large"),
        ("300 TFLOP/s", "300", "flops.fp16", "implausibly small"),
        ("fp16:", "fp15:", "flops.fp15", "not allowed"),
        ("vendor: NVIDIA", "vendor: NVIDIA\npower: -3", "power", "not positive"),
        ("vendor: NVIDIA", "vender: NVIDIA", "vender", "not a known field"),
        ("vendor: NVIDIA", "", "vendor", "is missing"),
        ("vendor: NVIDIA", "vendor: NVIDIA\nmemry: 3", "memry", "not a known field"),
        ("2026-01-15", "'15 January'", "date", "not allowed"),
        ("memory: 80 GiB", "memory: {value: 80 GiB, source: a friend}", "memory.kind", "is missing"),
        ("link: pcie4_x16", "link: pcie4_x16\nprice_per_hour: {value: 3}", "price_per_hour.kind", "is missing"),
        (
            "link: pcie4_x16",
            "link: pcie4_x16\nefficiency: {like: t4, error: 1, error_basis: x}",
            "efficiency.like",
            "lend",
        ),
        (
            "link: pcie4_x16",
            "link: pcie4_x16\nefficiency: {like: gpu, error: 1, error_basis: x}",
            "efficiency.like",
            "unknown",
        ),
        ("link: pcie4_x16", "link: pcie4_x16\nefficiency: {kind: measured}", "efficiency.source", "is missing"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, field: str, words: str) -> None:
    path = written(tmp_path, MINIMAL.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_device(path)
    assert caught.value.where == path
    assert caught.value.field == field
    assert words in caught.value.what


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ("x: [1, 2], y: [0.5]", "2 x values but 1 y values"),
        ("x: [2, 1], y: [0.5, 0.5]", "increase strictly"),
        ("x: [1, 2], y: [0.5, 0]", "must be positive"),
        ("x: [1, 2], y: [0.5, 1.5]", "at most 1"),
    ],
)
def test_a_curve_that_is_none_is_refused(tmp_path: Path, curve: str, words: str) -> None:
    good = (resource_dir("profiles") / "devices" / "_default_efficiency.yaml").read_text(encoding="utf-8")
    start, end = good.index("prefill_attention:"), good.index("decode_attention:")
    bad = f"prefill_attention: {{{curve}, error: 0.1, error_basis: none}}\n"
    written(tmp_path, good[:start] + bad + good[end:], "efficiency.yaml")
    with pytest.raises(InputError) as caught:
        load_device(written(tmp_path, MINIMAL + "efficiency: efficiency.yaml\n"))
    assert caught.value.field == "prefill_attention"
    assert words in caught.value.what


def test_links_are_per_direction() -> None:
    assert load_link("nvlink2").bandwidth.value == 150e9
    assert load_link("nvlink4").bandwidth.value == 450e9
    assert load_link("pcie3_x16").bandwidth.value < load_link("pcie4_x16").bandwidth.value
    with pytest.raises(InputError, match="unknown link 'nvlink9'"):
        load_link("nvlink9")
