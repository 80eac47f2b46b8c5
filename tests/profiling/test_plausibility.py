"""What measured tables are refused for: faster than the hardware, wrong units, times that shrink."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.cluster import load_device
from planner.errors import InputError
from planner.profiling.plausibility import check
from planner.profiling.tables import MeasuredTable, Origin

H100 = load_device("h100_sxm")


def table(kind: str, columns: dict[str, Any], device: str = "h100_sxm") -> MeasuredTable:
    origin = Origin(table=kind, device=device, title="t", source="test", licence="MIT", date="2026-11")
    return MeasuredTable.of(origin, columns, where="t.csv")


def gemm(factor: float = 1.0, share: float = 0.7) -> MeasuredTable:
    """Matrix products at a share of the peak, the times off by a factor."""
    m = np.array([1024, 2048, 4096, 8192])
    seconds = 2.0 * m * 8192.0 * 8192 / (share * H100.flops["bf16"].value) * factor
    return table("gemm", {"dtype": ["bf16"] * 4, "m": m, "n": [8192] * 4, "k": [8192] * 4, "seconds": seconds})


def collective(factor: float = 1.0, size: int = 1) -> MeasuredTable:
    sizes = np.array([2**24, 2**26, 2**30])
    seconds = 20e-6 + 1.75 * sizes / 350e9
    columns = {"operation": ["all_reduce"] * 3, "gpus": [8] * 3, "bytes": sizes * size}
    return table("collective", columns | {"seconds": seconds * factor})


def test_true_tables_pass() -> None:
    assert check(gemm(), where="t.csv") == ()
    assert check(gemm(share=1.05), where="t.csv") == ()  # clocks boost
    assert check(collective(), where="t.csv") == ()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (gemm(share=1.3), "1.3 times the data sheet"),
        (gemm(1e-3), "about 1000 times off: milliseconds for seconds"),
        (gemm(1e3), "about 1000 times off: milliseconds for seconds"),
        (gemm(1 / 8), "about 8 times off: bits for bytes"),
        (collective(1e-3), "about 1000 times off"),
        (collective(1e3), "about 1000 times off"),
        (collective(size=8), "bits for bytes"),
    ],
)
def test_wrong_units_are_refused_with_the_suspicion(made: MeasuredTable, told: str) -> None:
    with pytest.raises(InputError) as caught:
        check(made, where="t.csv")
    assert told in str(caught.value)
    assert "t.csv:" in str(caught.value)
    assert "on h100_sxm" in str(caught.value)


def test_a_place_is_told_where_it_is_known() -> None:
    with pytest.raises(InputError, match=r"^a\.txt:\d+"):
        check(gemm(1e-3), where="t.csv", places=[f"a.txt:{at}" for at in range(4)])


@pytest.mark.parametrize(
    ("factor", "told"), [(1000.0, "check the unit"), (1.0 / 1000.0, "1000 times off"), (8.0, "8 times off")]
)
def test_bandwidth_fits_in_another_unit_are_refused(factor: float, told: str) -> None:
    fit = {"scope": ["node"], "gpus": [8], "square": [0.0], "linear": [0.0], "constant": [350.0]}
    assert check(table("link_fit", fit | {"peak": [350e9]}), where="t.csv") == ()
    with pytest.raises(InputError, match=told):
        check(table("link_fit", fit | {"peak": [350e9 * factor]}), where="t.csv")


def test_decode_attention_may_not_read_faster_than_memory() -> None:
    heads = {"heads": [32], "kv_heads": [32], "head_dim": [128], "batch": [64], "context": [4096]}
    size = 2 * 64 * 4096 * 32 * 128 * 2
    slow, fast = (size / (share * H100.memory_bandwidth.value) for share in (0.8, 1.4))
    columns: dict[str, Any] = {"dtype": ["bf16"], **heads}
    assert check(table("decode_attention", columns | {"seconds": [slow]}), where="t.csv") == ()
    with pytest.raises(InputError, match="memory bandwidth"):
        check(table("decode_attention", columns | {"seconds": [fast]}), where="t.csv")


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_layers_of_known_models_are_held_against_the_peak(factor: float) -> None:
    def made(times: float) -> MeasuredTable:
        flops = 2.0 * 70e9 / 80 * 4096  # a layer of Llama 2 70B, 4096 tokens
        seconds = [flops / (0.5 * H100.flops["bf16"].value) * times]
        columns = {"model": ["llama-2-70b"], "phase": ["prefill"], "tp": [1], "batch": [1], "tokens": [4096]}
        return table("serving_layer", columns | {"seconds": seconds})

    assert check(made(1.0), where="t.csv") == ()
    with pytest.raises(InputError, match="1000 times off"):
        check(made(factor), where="t.csv")


def test_times_that_shrink_with_size_are_refused_or_told() -> None:
    true = gemm()
    turned = {name: values for name, values in true.columns.items() if name != "spread"} | {
        "seconds": true["seconds"][::-1] * 40  # all slow enough for the data sheet
    }
    with pytest.raises(InputError, match="seconds shrinks with m in 100% of the steps"):
        check(table("gemm", turned), where="t.csv")
    noisy = true["seconds"].copy()
    noisy[2] = noisy[1] * 0.9 if noisy[1] * 0.9 > noisy[2] else noisy[2] * 4.0
    (warning,) = check(table("gemm", {**turned, "seconds": noisy}), where="t.csv")
    assert "in 1 of 3 steps" in warning


def test_few_outliers_of_a_large_table_are_told_not_refused() -> None:
    m = np.arange(1024, 1024 + 400)
    seconds = 2.0 * m * 8192.0 * 8192 / (0.7 * H100.flops["bf16"].value)
    seconds[10] /= 2.0
    columns: dict[str, Any] = {"dtype": ["bf16"] * 400, "m": m, "n": [8192] * 400, "k": [8192] * 400}
    warnings = check(table("gemm", columns | {"seconds": seconds}), where="t.csv")
    assert warnings[0].startswith("1 of 400 rows are faster than the data sheet, t.csv:11")


def test_a_gpu_that_is_no_gpu_is_not_held_against_one() -> None:
    sizes = {"model": ["x"], "layer": [0], "tp": [1], "parameters": [1e9]}
    assert check(table("layer_size", sizes, device="any"), where="t.csv") == ()
