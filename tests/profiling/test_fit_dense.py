"""Surfaces of dense kernels: a known surface is found again, its error is what it says, and it ships as it was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.cluster import load_device
from planner.cluster.measured import SurfaceFile, load_fitted, read_fitted
from planner.cost.measured import TRANSFER_ERRORS, measured_devices
from planner.cost.rooflines import gemm_roofline
from planner.profiling.fit.attention import fit_attention
from planner.profiling.fit.collectives import fit_collectives
from planner.profiling.fit.dense import FAMILIES, fit_dense, write_dense
from planner.profiling.fit.gemm import GEMM_AXES, fit_gemm
from planner.profiling.fit.shares import LARGEST_SHARE
from planner.profiling.fit.transfer import transfer_errors
from planner.profiling.tables import MeasuredTable, Origin, read_measured
from planner.resources import resource_dir

ROWS = Path(__file__).resolve().parents[1] / "fixtures" / "kernels" / "h200"
DEVICES = (
    *("a100_sxm_80", "b200", "b300", "gb200", "gb300"),
    *("h100_sxm", "h200", "l40s", "rtx_pro_6000"),
)


def origin(table: str) -> Origin:
    return Origin(
        table=table,
        device="h200",
        title="made up",
        source="made up",
        licence="Apache-2.0",
        date="2026-11",
        software="vllm 1.0",
    )


def made_up_gemm(seed: int = 0, noise: float = 0.0) -> tuple[MeasuredTable, float]:
    """Products that take 3 us and reach a share which grows with the logarithm of every size."""
    device, floor = load_device("h200"), 3e-6
    sizes = np.array([64, 128, 512, 1024, 2048, 4096, 8192, 16384], dtype=float)
    m, n, k = (a.ravel() for a in np.meshgrid([1.0, 4, 16, 64, 256, 1024, 4096, 16384], sizes, sizes, indexing="ij"))
    share = 0.2 + 0.05 * np.log(m) / np.log(4) + 0.02 * np.log2(n * k / 4096)
    share = np.minimum(share, 0.9)
    roofline = gemm_roofline(m, n, k, device.flops["bf16"].value, device.memory_bandwidth.value, 2.0, 2.0)
    spread = np.exp(noise * np.random.default_rng(seed).standard_normal(len(m)))
    columns = {"dtype": ["bf16"] * len(m), "m": m, "n": n, "k": k, "seconds": (floor + roofline / share) * spread}
    return MeasuredTable.of(origin("gemm"), columns, where="made up"), floor


def test_a_known_surface_is_found_again() -> None:
    table, floor = made_up_gemm()
    surface, facts = fit_gemm(table, load_device("h200"))["bf16/vllm"]
    assert facts.floor == pytest.approx(floor, rel=0.1)
    for m, n, k, share in ((64, 4096, 4096, 0.59), (1024, 2048, 8192, 0.69), (4096, 8192, 8192, 0.78)):
        expected = min(0.2 + 0.05 * np.log(m) / np.log(4) + 0.02 * np.log2(n * k / 4096), 0.9)
        assert expected == pytest.approx(share, abs=0.01)
        assert float(surface.at(m, n, k)) == pytest.approx(expected, rel=0.03)
    assert facts.error < 0.03
    assert facts.rows == len(table)


def test_noise_shows_in_the_error_and_hardly_in_the_surface() -> None:
    clean, noisy = (fit_gemm(made_up_gemm(noise=noise)[0], load_device("h200"))["bf16/vllm"] for noise in (0.0, 0.1))
    assert noisy[1].error == pytest.approx(0.08, abs=0.03)  # the mean of |N(0, 0.1)|, and what the fit takes up of it
    difference = np.abs(noisy[0].log_values - clean[0].log_values)[:, 2:-1, 2:-1]
    assert difference.mean() < 0.06


def test_one_wild_measurement_does_not_bend_the_surface() -> None:
    table, _ = made_up_gemm()
    seconds = table["seconds"].copy()
    at = int(np.flatnonzero((table["m"] == 1024) & (table["n"] == 4096) & (table["k"] == 4096))[0])
    seconds[at] *= 50
    wild = MeasuredTable(table.origin, {**table.columns, "seconds": seconds})
    one, other = (fit_gemm(t, load_device("h200"))["bf16/vllm"][0] for t in (table, wild))
    assert float(other.at(1024, 4096, 4096)) == pytest.approx(float(one.at(1024, 4096, 4096)), rel=0.15)


def test_a_table_full_of_host_time_is_left_out() -> None:
    table, _ = made_up_gemm()
    slow = MeasuredTable(table.origin, {**table.columns, "seconds": table["seconds"] + 150e-6})
    assert fit_gemm(slow, load_device("h200")) == {}


def test_what_a_cache_serves_counts_as_served_from_memory() -> None:
    table, _ = made_up_gemm()
    cached = MeasuredTable(table.origin, {**table.columns, "seconds": np.full(len(table), 3e-6)})
    surface, facts = fit_gemm(cached, load_device("h200"))["bf16/vllm"]
    assert np.exp(surface.log_values).max() <= LARGEST_SHARE + 1e-9
    assert "from cache" in facts.note


def test_the_faster_kernel_of_a_shape_counts() -> None:
    table, _ = made_up_gemm()
    both = {
        name: np.concatenate([column, 3.0 * column if name == "seconds" else column])
        for name, column in table.columns.items()
    }
    one, other = (fit_gemm(t, load_device("h200"))["bf16/vllm"][0] for t in (table, MeasuredTable(table.origin, both)))
    assert np.allclose(one.log_values, other.log_values)


@pytest.mark.parametrize("kind", ["prefill_attention", "decode_attention"])
def test_attention_of_real_rows(kind: str) -> None:
    table = read_measured(ROWS / f"{kind}-vllm.csv")
    ((name, (_, facts)),) = fit_attention(table, load_device("h200")).items()
    assert name == ("prefill/bf16/vllm" if kind == "prefill_attention" else "decode/fp8/vllm")
    served = (table["heads"] <= 16 * table["kv_heads"]) & (table["head_dim"] <= 256)
    assert facts.rows == int(served.sum())
    assert facts.error < 0.25  # a part of the rows; the whole table gives less
    assert 5e-6 < facts.floor < 20e-6


def test_matrix_products_of_real_rows() -> None:
    fitted = fit_gemm(read_measured(ROWS / "gemm-vllm.csv"), load_device("h200"))
    assert set(fitted) == {"bf16/vllm", "fp8/vllm"}
    assert fitted["bf16/vllm"][1].error < 0.12
    assert fitted["fp8/vllm"][1].floor > fitted["bf16/vllm"][1].floor  # quantises first


def test_collectives_take_the_fastest_of_several_collections() -> None:
    table = read_measured(ROWS / "collective-vllm.csv")
    slower = MeasuredTable(table.origin, {**table.columns, "seconds": 3.0 * table["seconds"]})
    alone, both = (fit_collectives(tables)["all_reduce/vllm"] for tables in ([table], [table, slower]))
    assert np.allclose(alone[0].log_values, both[0].log_values)
    assert alone[1].error < 0.1
    assert both[1].error == pytest.approx(0.9)  # the median of two is twice the fastest: capped


def test_written_and_read_again(tmp_path: Path) -> None:
    families = fit_dense([made_up_gemm()[0]], load_device("h200"))
    ((path, written),) = write_dense(families, "h200", origin("gemm"), tmp_path)
    file, surfaces = read_fitted(path)
    assert file == written
    assert isinstance(file, SurfaceFile)
    expected, _ = families["gemm"]["bf16/vllm"]
    assert np.allclose(surfaces["bf16/vllm"].surface.log_values, expected.log_values, atol=2e-3)


def test_what_ships_is_complete_small_and_right() -> None:
    total = 0
    for device in DEVICES:
        for family in FAMILIES:
            path = resource_dir("profiles") / "measured" / device / f"{family}.npz"
            file, surfaces = read_fitted(path)
            assert file.device == device
            assert file.licence == "Apache-2.0"
            total += path.stat().st_size + path.with_suffix(".yaml").stat().st_size
            for name, one in surfaces.items():
                assert 0 < one.facts.error < 1, name
                if family == "gemm":
                    assert one.surface.names == tuple(axis for axis, _ in GEMM_AXES)
                    assert np.exp(one.surface.log_values).max() <= LARGEST_SHARE + 2e-3, f"{device} {name}"
    assert total < 2e6


def test_every_engine_has_matrix_products_on_every_gpu_type() -> None:
    assert set(DEVICES) == set(measured_devices("gemm"))
    for device in DEVICES:
        names = set(load_fitted(device, "gemm"))
        assert {f"bf16/{engine}" for engine in ("vllm", "sglang", "trtllm")} <= names


@pytest.mark.parametrize("family", ["gemm", "attention"])
def test_errors_of_transfers_are_those_of_leaving_each_gpu_out(family: str) -> None:
    same, kin = [], []
    for (name, relative), error in transfer_errors(family).items():
        alike = load_device(name).compute_capability == load_device(relative).compute_capability
        (same if alike else kin).append(error)
    assert len(same) == 6
    assert len(kin) == 2
    # rounded up to a percent
    assert TRANSFER_ERRORS[family] == pytest.approx((max(same), max(kin)), abs=0.011)
