"""Measured kernels in the cost model: rows that were measured, engines, relatives, and what has no surface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.cluster import load_device, load_link
from planner.cluster.measured import load_fitted
from planner.cost.device import DeviceOperators
from planner.cost.kernels import GemmKernel
from planner.cost.measured import TRANSFER_ERRORS
from planner.cost.network import collective_for
from planner.profiling.tables import read_measured

ROWS = Path(__file__).resolve().parents[1] / "fixtures" / "kernels" / "h200"
H200 = load_device("h200")


@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_matrix_products_meet_measured_rows(dtype: str) -> None:
    table, facts = read_measured(ROWS / "gemm-vllm.csv"), load_fitted("h200", "gemm")[f"{dtype}/vllm"].facts
    ops = DeviceOperators(H200, "vllm")
    start = GemmKernel.of(H200, "vllm", dtype).start  # type: ignore[union-attr]
    missed = []
    # what the stated error is of, and no matrix narrower than a layer's
    busy = (table["seconds"] > 2 * facts.floor) & (np.minimum(table["n"], table["k"]) >= 512)
    for n, k in sorted(set(zip(table["n"].tolist(), table["k"].tolist(), strict=True))):
        rows = busy & (table["dtype"] == dtype) & (table["n"] == n) & (table["k"] == k)
        if not rows.any():
            continue
        tokens = table["m"][rows].astype(float)
        time = ops.gemm(tokens, n, k, dtype, "bf16") - start + facts.floor  # type: ignore[arg-type]
        missed.append(np.abs(time / table["seconds"][rows] - 1))
    # rows at powers of two, where 8-bit kernels change their tiles: the surface passes between both sides
    assert float(np.concatenate(missed).mean()) < (1.5 if dtype == "bf16" else 2.0) * facts.error


def test_attention_meets_measured_rows() -> None:
    ops = DeviceOperators(H200, "vllm")
    for kind, key in (("prefill_attention", "prefill/bf16/vllm"), ("decode_attention", "decode/fp8/vllm")):
        table, facts = read_measured(ROWS / f"{kind}-vllm.csv"), load_fitted("h200", "attention")[key].facts
        start = min(
            one.facts.floor
            for name, one in load_fitted("h200", "attention").items()
            if name.rpartition("/")[0] == key.rpartition("/")[0]
        )
        missed = []
        for heads, kv in sorted(set(zip(table["heads"].tolist(), table["kv_heads"].tolist(), strict=True))):
            if heads > 16 * kv:
                continue
            rows = (table["heads"] == heads) & (table["kv_heads"] == kv)
            batch = table["batch"][rows].astype(float)
            if kind == "prefill_attention":
                tokens = table["tokens"][rows].astype(float)
                time = ops.prefill_attention(
                    batch * tokens, (tokens + 1) / 2, heads * 256.0, heads=heads, kv_heads=kv, kv_dtype="bf16"
                )
            else:
                time = ops.decode_attention(
                    batch,
                    table["context"][rows].astype(float),
                    kv * 256.0,
                    heads * 256.0,
                    heads=heads,
                    kv_heads=kv,
                    kv_dtype="fp8",
                )
            missed.append(np.abs((time - start + facts.floor) / table["seconds"][rows] - 1))
        assert float(np.concatenate(missed).mean()) < 1.5 * facts.error, kind


def test_collectives_meet_measured_rows() -> None:
    table = read_measured(ROWS / "collective-nccl.csv")
    link = load_link(H200.link).link()
    for operation in ("all_gather", "reduce_scatter", "all_to_all"):
        for gpus in (2, 4, 8):
            rows = (table["operation"] == operation) & (table["gpus"] == gpus) & (table["bytes"] >= 1024)
            group = collective_for(H200, gpus, link, native=True)
            assert group.provenance == "fitted"
            time = getattr(group, operation)(table["bytes"][rows].astype(float))
            # the fastest of several collections, so never far above this one of them
            assert float(np.median(np.abs(time / table["seconds"][rows] - 1))) < 0.1
            assert (time < 1.35 * table["seconds"][rows]).all()


def test_an_all_reduce_is_the_faster_of_fused_kernel_and_library() -> None:
    link = load_link(H200.link).link()
    group = collective_for(H200, 8, link, native=True)
    size = np.geomspace(1024, 2**30, 50)
    for one in load_fitted("h200", "collectives").items():
        if one[0].startswith("all_reduce/"):
            assert (group.all_reduce(size) <= 1.001 * one[1].surface.at(8, size)).all()
    assert (np.diff(group.all_reduce(size)) >= 0).all()
    assert float(group.all_reduce(np.array(4.0 * 2**30))) > 3.5 * float(group.all_reduce(np.array(2.0**30)))


def test_a_part_of_a_group_has_its_ring_and_no_measured_times() -> None:
    link = load_link(H200.link).link()
    eight = collective_for(H200, 8, link, native=True)
    assert eight.among(8) is eight
    four = eight.among(4)
    assert four.points is None
    assert not four.others
    assert float(eight.among(1).all_reduce(np.array(1e6))) == 0.0


def test_engines_run_their_own_kernels_and_the_best_stands_for_none() -> None:
    m = np.geomspace(1, 16384, 30)
    times = {
        engine: DeviceOperators(H200, engine).gemm(m, 8192, 8192, "fp8", "bf16")
        for engine in ("vllm", "sglang", "trtllm", None, "megatron")
    }
    assert not np.allclose(times["vllm"], times["trtllm"], rtol=0.05)
    for engine in ("vllm", "sglang", "trtllm"):
        assert (times[None] <= times[engine] * (1 + 1e-9)).all()
    assert np.array_equal(times[None], times["megatron"])


def test_a_relative_lends_its_shares_with_the_error_of_a_transfer() -> None:
    gh200 = DeviceOperators(load_device("gh200"))
    error, provenance = gh200.band("gemm", "bf16")
    assert provenance == "spec"
    assert error >= TRANSFER_ERRORS["gemm"][0]
    assert DeviceOperators(load_device("h100_sxm")).band("gemm", "bf16") < (error, "")
    # a GPU of another capability of the same generation is a distant one
    assert DeviceOperators(load_device("a40")).band("gemm", "bf16")[0] >= TRANSFER_ERRORS["gemm"][1]
    assert GemmKernel.of(load_device("t4"), None, "fp16") is None
    assert GemmKernel.of(load_device("mi300x"), "vllm", "bf16") is None


def test_ones_own_measurements_come_before_a_relatives() -> None:
    device = load_device("gh200")
    mine = device.efficiency.model_copy(update={"kind": "measured"})
    own = device.model_copy(update={"name": "my_gh200", "efficiency": mine})
    assert GemmKernel.of(own, "vllm", "bf16") is None
    assert GemmKernel.of(device.model_copy(update={"name": "my_gh200"}), "vllm", "bf16") is not None


def test_a_window_bounds_the_work_of_a_prompt() -> None:
    ops = DeviceOperators(H200, "vllm")
    length = np.array([1024.0, 16384.0])
    whole, window = (
        ops.prefill_attention(length, length / 2, 64 * 128.0, heads=64, kv_heads=8, window=w) for w in (np.inf, 128.0)
    )
    assert window[1] < 0.2 * whole[1]
    assert window[1] < 20 * window[0]  # linear in the length, where the whole is quadratic
    assert (window <= 1.05 * whole).all()  # each with the start of its kernel
