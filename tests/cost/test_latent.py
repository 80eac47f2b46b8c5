"""Latent attention: measured rows come back, and what must hold between sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.cluster import load_device
from planner.cost.latent import LatentKernel, decode_roofline
from planner.model import load_model
from planner.profiling.tables import read_measured

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ATTENTION = load_model("deepseek-r1").kinds[0].attention


def kernel(kv: str = "bf16", engine: str = "trtllm", device: str = "h200") -> LatentKernel:
    found = LatentKernel.of(ATTENTION, load_device(device), engine, "fp8" if kv == "fp8" else "bf16")
    assert found is not None
    return found


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_measured_decode_steps_come_back(kv: str) -> None:
    table, one = read_measured(FIXTURES / "mla_decode_h200.csv"), kernel(kv)
    mine = np.flatnonzero(table["kv_dtype"] == kv)
    predicted = np.array(
        [
            float(one.decode_B(*(np.array(float(table[n][r])) for n in ("batch", "context")), table["heads"][r]))
            for r in mine
        ]
    )
    miss = np.abs(predicted / table["seconds"][mine] - 1.0)
    assert np.median(miss) < 2 * one.decode.error
    assert miss.max() < 0.35


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_measured_prompts_come_back(kv: str) -> None:
    table, one = read_measured(FIXTURES / "mla_prefill_h200.csv"), kernel(kv)
    mine = np.flatnonzero(table["kv_dtype"] == kv)
    tokens = (table["batch"] * table["tokens"])[mine].astype(float)
    predicted = np.array(
        [
            float(one.prefill_B(np.array(t), np.array(n / 2.0), h))
            for t, n, h in zip(tokens, table["tokens"][mine], table["heads"][mine], strict=True)
        ]
    )
    miss = np.abs(predicted / table["seconds"][mine] - 1.0)
    assert np.median(miss) < 2 * one.prefill.error
    assert miss.max() < 0.35


@pytest.mark.parametrize("engine", ["trtllm", "sglang", "vllm"])
def test_more_work_does_not_take_less(engine: str) -> None:
    one = kernel("bf16", engine)
    sizes = np.geomspace(1, 1024, 40)
    by_batch = one.decode_B(sizes, np.full(40, 2048.0), 16)
    by_context = one.decode_B(np.full(40, 32.0), 128 * sizes, 16)
    by_tokens = one.prefill_B(128 * sizes, 64 * sizes, 16)
    for time_B in (by_batch, by_context, by_tokens):
        assert (time_B[1:] >= time_B[:-1] * 0.97).all()
    assert float(one.decode_B(np.array(8.0), np.array(4096.0), 128)) > float(
        one.decode_B(np.array(8.0), np.array(4096.0), 16)
    )


def test_nothing_takes_no_time_and_a_chunk_less_than_the_whole() -> None:
    one = kernel()
    assert float(one.decode_B(np.array(0.0), np.array(1024.0), 16)) == 0.0
    assert float(one.prefill_B(np.array(0.0), np.array(1024.0), 16)) == 0.0
    whole = float(one.prefill_B(np.array(8192.0), np.array(4096.0), 16))
    assert 4 * float(one.prefill_B(np.array(2048.0), np.array(4096.0), 16)) == pytest.approx(whole)


def test_a_latent_is_not_divided_by_heads() -> None:
    # bytes of one latent bound 16 heads and 128 alike where memory is the limit
    few, all_heads = (
        float(decode_roofline(np.array(1.0), np.array(1e4), h, 576, 2.0, 1e20, 4.8e12)) for h in (16, 128)
    )
    assert few == all_heads == pytest.approx(1e4 * 576 * 2 / 4.8e12)


def test_other_engines_and_gpus_are_estimates() -> None:
    assert kernel().band("decode_attention")[1] == "fitted"
    error, provenance = kernel("bf16", "vllm").band("decode_attention")
    assert provenance == "spec" and error >= 0.3
    assert LatentKernel.of(ATTENTION, load_device("mi300x"), "vllm", "bf16") is None
