"""Stored constants are what the fit gives, folds have not seen their group, and bands hold what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner import ServingEstimator, load_device, load_model
from planner.engine import load_engine
from planner.engine.fitted import LeftOut, load_fit, overheads_of
from planner.profiling.accuracy import accuracy_of, load_truth
from planner.profiling.fit.constants import LATENCY, OFFLINE, SPLIT, Constant, host_times, priors
from planner.profiling.fit.robust import fit_robustly, leave_groups_out, weights_of_groups
from planner.profiling.fit.serving import SiliconData, fit_constants, left_out
from planner.profiling.fit.store import left_out_errors


@pytest.fixture(scope="module")
def data() -> SiliconData:
    """All rows that the servers' constants are fitted to."""
    rows = [row for name in ("serving_silicon_dense", "serving_silicon_moe") for row in load_truth(name).rows]
    return SiliconData.of([replace(row, number=number) for number, row in enumerate(rows, start=1)])


def test_stored_constants_are_what_the_fit_gives(data: SiliconData) -> None:
    stored = load_fit("serving").constants
    found = fit_constants(data, np.ones(len(data.rows), dtype=bool))
    assert sorted(found) == sorted(stored) == sorted(priors((*LATENCY, *SPLIT)))
    spreads = {constant.name: constant.spread for constant in (*LATENCY, *SPLIT)}
    for name, value in found.items():
        assert abs(value - stored[name]) < 0.1 * spreads[name] + 1e-3 * stored[name], name


def test_stored_errors_are_those_of_the_stored_folds(data: SiliconData) -> None:
    fit = load_fit("serving")
    assert {fold.group for fold in fit.folds} == set(data.groups)
    assert fit.rows == len(data.rows)
    by_group = {fold.group: fold for fold in fit.folds}

    class AsFold:
        def __init__(self, group: tuple[str, ...]) -> None:
            self.group, self.values = group, by_group[group].constants

    ttft_B, tpot_B = left_out(data, [AsFold(group) for group in data.groups])  # type: ignore[misc]
    everything_B = np.ones(len(data.rows), dtype=bool)
    for figure, predicted_B, measured_B in (("ttft", ttft_B, data.ttft_B), ("tpot", tpot_B, data.tpot_B)):
        now = left_out_errors("all", figure, predicted_B, measured_B, data.group_B, everything_B)
        before = fit.error("all", figure)
        assert now.mean_ape == pytest.approx(before.mean_ape, abs=2e-3)
        assert now.median_ape == pytest.approx(before.median_ape, abs=2e-3)
        assert now.band == pytest.approx(before.band, rel=0.02)


GROUPS = [one for one in load_fit("serving").left_out if "," not in one.part]


@pytest.mark.parametrize("one", GROUPS, ids=lambda one: f"{one.part} {one.figure}")
def test_bands_hold_nine_in_ten_of_what_was_not_seen(one: LeftOut) -> None:
    """Each group against a band learnt from the others."""
    assert 0.80 <= one.coverage <= 0.97
    if one.part == "all":
        assert 0.85 <= one.coverage <= 0.95


def test_left_out_is_worse_than_fitted_and_both_are_what_the_command_prints(data: SiliconData) -> None:
    table = load_truth("serving_silicon_dense")
    fitted, unseen = (accuracy_of(table, left_out=flag) for flag in (False, True))
    for one, other in zip(fitted.overall, unseen.overall, strict=True):
        assert one.figure == other.figure
        assert other.n == one.n
        assert other.mean_ape > one.mean_ape
    stored = load_fit("serving").error("dense", "tpot")
    assert unseen.overall[1].mean_ape == pytest.approx(stored.mean_ape, abs=2e-3)


def test_an_engine_that_was_not_measured_has_the_band_of_engines_left_out_whole() -> None:
    fit = load_fit("serving")
    errors = {
        name: ServingEstimator(load_model("llama-3.1-8b"), load_device("h100_sxm"), load_engine(name))(
            tp=1, isl=512, osl=64, concurrency=4
        ).errors["tpot"]
        for name in ("vllm", "generic")
    }
    assert errors["vllm"] == pytest.approx(fit.error("dense", "tpot").band)
    assert errors["generic"] == pytest.approx(fit.error("dense, no engine", "tpot").band)
    assert errors["generic"] > 1.2 * errors["vllm"]


def test_engines_carry_the_fitted_constants() -> None:
    fit, offline = load_fit("serving").constants, load_fit("offline").constants
    for name in ("vllm", "sglang", "trtllm"):
        overhead = load_engine(name).overhead
        assert overhead.iteration.value == fit[f"iteration.{name}"]
        assert overhead.kernels.value == fit["kernels"]
        assert overhead.iteration.kind == "fitted"
    generic = load_engine("generic").overhead.iteration
    assert generic.kind == "estimated"
    assert generic.source.startswith("as vllm")
    assert generic.value == fit["iteration.vllm"]
    unknown = overheads_of("serving", "somebody")["iteration"]
    assert unknown["kind"] == "estimated"
    assert unknown["value"] == pytest.approx(np.mean([fit[f"iteration.{e}"] for e in ("sglang", "trtllm", "vllm")]))
    batch = load_engine("trtllm").offline_overhead
    assert batch is not None
    assert batch.layer.value == offline["layer"]
    assert load_engine("trtllm").reserved_memory.value == offline["reserved_memory"]
    assert sorted(offline) == sorted(priors(OFFLINE))
    times = host_times(fit, ["vllm", "somebody"])
    assert times.iteration_R[1] == pytest.approx(unknown["value"])


def test_a_fit_finds_what_made_the_measurements(data: SiliconData) -> None:
    """Rows made by known constants give back their predictions, though priors pull the constants themselves."""
    true = priors((*LATENCY, *SPLIT))
    true |= {"kernels": 0.93, "iteration.vllm": 1.6e-3, "first_token.trtllm": 0.03, "load.gap.prompt_wait": 1.9}
    loop = data.solve(true)
    made = replace(data, ttft_B=loop.ttft_B, tpot_B=loop.tpot_B)
    found = fit_constants(made, np.ones(len(data.rows), dtype=bool))
    assert np.abs(made.errors_B(found, "tpot")).mean() < 0.01
    assert np.abs(made.errors_B(found, "ttft")).mean() < 0.02


def test_outliers_do_not_decide() -> None:
    truth = Constant("a", 1.0, 1.0, "a test")
    x_N = np.linspace(1, 2, 40)
    measured_N = 3.0 * x_N
    measured_N[:4] *= 50.0  # rows that contradict their columns
    group_N = np.arange(40) % 4
    found = fit_robustly(
        [truth],
        lambda values: np.log(values["a"] * x_N / measured_N),
        weights_of_groups(group_N, np.ones(40, dtype=bool)),
        {},
        saturation=0.3,
    )
    assert found["a"] == pytest.approx(3.0, rel=0.03)


def test_groups_weigh_alike_and_are_left_out_whole() -> None:
    group_N = np.array([0] * 10 + [1] * 2)
    weight_N = weights_of_groups(group_N, np.ones(12, dtype=bool))
    assert (weight_N[:10] ** 2).sum() == pytest.approx((weight_N[10:] ** 2).sum())
    seen: list[list[bool]] = []

    def fit(seen_N: np.ndarray) -> dict[str, float]:  # type: ignore[type-arg]
        seen.append(seen_N.tolist())
        return {}

    folds = leave_groups_out(["first", "second"], group_N, fit)
    assert [fold.group for fold in folds] == ["first", "second", None]
    assert seen == [[False] * 10 + [True] * 2, [True] * 10 + [False] * 2, [True] * 12]
