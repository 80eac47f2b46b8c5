"""Formats, schedules and overlaps of training runs: what must hold whatever the constants are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cluster import load_device
from planner.cost.training import pipeline_time
from planner.cost.training_gemm import large_gemm_level, large_gemm_rates
from planner.cost.training_memory import microbatches_in_flight
from planner.cost.training_options import RunOptions
from planner.model import load_model
from planner.profiling.accuracy.training import Setting, price


def setting(**changes: object) -> Setting:
    base = Setting(
        model=load_model("llama-3.1-70b"),
        device=load_device("h100_sxm"),
        gpus_per_node=8,
        nic=400e9,
        tp=4,
        dp=2,
        layers=(20, 20, 20, 20),
        global_batch=64,
        sequence_length=8192,
        microbatch=1,
        zero_stage=1,
        sequence_parallel=True,
        options=RunOptions(overlap=True),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def seconds(**options: object) -> float:
    return price(setting(options=RunOptions(overlap=True, **options))).seconds  # type: ignore[arg-type]


@given(
    stage=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6),
    microbatches=st.integers(1, 64),
    chunks=st.integers(1, 8),
)
def test_interleaving_shrinks_the_bubble_and_nothing_else(stage: list[float], microbatches: int, chunks: int) -> None:
    stage_BS = np.array([stage])
    plain = float(pipeline_time(stage_BS, microbatches)[0])
    deep = float(pipeline_time(stage_BS, microbatches, chunks)[0])
    busy = microbatches * max(stage)
    assert deep <= plain * (1 + 1e-12)
    assert deep - busy == pytest.approx((plain - busy) / chunks, abs=1e-9)


def test_in_flight_follows_the_paper() -> None:
    """MLSys 2023, section 4.2.3: interleaving holds ``1 + (p - 1) / (p m)`` times the activations of plain 1F1B."""
    for stages, chunks in ((8, 3), (35, 3), (4, 5)):
        held = microbatches_in_flight(1000, position=0, stages=stages, chunks=chunks)
        assert held == pytest.approx(stages * (1 + (stages - 1) / (stages * chunks)))


def test_narrower_formats_are_faster_and_blocks_cost_more() -> None:
    assert seconds() > seconds(matrix_format="mxfp8") > seconds(matrix_format="fp8")


def test_frozen_weights_have_no_gradient() -> None:
    assert 0.5 * seconds() < seconds(frozen_weights=True) < 0.8 * seconds()


def test_context_parallelism_shares_a_sequence() -> None:
    alone = price(setting(dp=2)).seconds
    shared = price(setting(dp=1, global_batch=32, context_parallel=2)).seconds
    # as many GPUs at half the batch: half the time a microbatch, as many of them, and keys and values to pass
    assert 0.5 * alone < shared < 0.62 * alone


def test_overlap_never_costs() -> None:
    assert seconds() < price(setting(options=RunOptions())).seconds


def test_large_products_run_as_measured() -> None:
    from planner.cost.device import DeviceOperators

    for (name, dtype), rate in large_gemm_rates().items():
        device = load_device(name)
        stored = "bf16" if dtype == "bf16" else dtype
        by_curve = float(DeviceOperators(device).gemm(np.array(16384.0), 8192, 8192, stored, "bf16"))  # type: ignore[arg-type]
        level = large_gemm_level(device, stored)  # type: ignore[arg-type]
        assert 2.0 * 16384 * 8192**2 / (by_curve * level) == pytest.approx(rate)
        assert rate < device.flops[stored].value  # type: ignore[index]
