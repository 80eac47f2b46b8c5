"""Constants of training runs: stored ones are what the fit gives, folds have not seen their group, errors are small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from planner.cost.training_memory import activations
from planner.engine import load_engine
from planner.engine.fitted import FitFile, load_fit
from planner.profiling.accuracy import accuracy_of, load_truth
from planner.profiling.accuracy.megatron import FIT
from planner.profiling.accuracy.names import model_of
from planner.profiling.accuracy.sailor import FIT as MEASURED
from planner.profiling.fit import training, training_measured
from planner.profiling.fit.robust import Fold, weights_of_groups
from planner.profiling.fit.store import left_out_errors


@pytest.fixture(scope="module")
def runs() -> training.TrainingData:
    """Published Megatron runs."""
    return training.TrainingData.of()


@pytest.fixture(scope="module")
def measured() -> training_measured.MeasuredData:
    """Sailor's runs."""
    return training_measured.MeasuredData.of()


def folds_of(fit: FitFile) -> list[Fold[tuple[str, ...]]]:
    return [Fold(fold.group, fold.constants) for fold in fit.folds]


# -- runs from kernel tables


def test_every_row_of_the_tables_is_used(runs: training.TrainingData) -> None:
    assert load_fit(FIT).rows == len(runs.rows) == 5 + 5 + 90 + 8
    assert {fold.group for fold in load_fit(FIT).folds} == set(runs.groups)


def test_engine_runs_with_the_stored_constants() -> None:
    times, fit = load_engine("megatron").training, load_fit(FIT)
    for name, value in fit.constants.items():
        figure = getattr(times, name)
        assert (figure.value, figure.kind) == (value, "fitted")
        assert figure.error == fit.error("all", "iteration_time").band


def test_stored_constants_are_where_the_fit_ends(runs: training.TrainingData) -> None:
    """No step of any constant lowers what the fit minimises by more than its last digits."""
    stored = load_fit(FIT).constants
    told = runs.told(stored)
    weight_N = weights_of_groups(runs.group_N, np.ones(len(runs.rows), dtype=bool))
    pull = 0.03 / math.sqrt(len(training.CONSTANTS))

    def objective(values: dict[str, float]) -> float:
        error_N = np.log(told.seconds_N(values) / runs.measured_N)
        steps = [(values[one.name] - one.prior) / one.spread for one in training.CONSTANTS]
        return float(
            ((weight_N * 0.5 * np.tanh(error_N / 0.5)) ** 2).sum() + (pull * np.array(steps)) @ (pull * np.array(steps))
        )

    least = objective(stored)
    assert sorted(stored) == sorted(one.name for one in training.CONSTANTS)
    for one in training.CONSTANTS:
        for step in (-0.3, 0.3):
            moved = max(stored[one.name] + step * one.spread, 0.0)
            assert objective(stored | {one.name: moved}) >= least * (1 - 5e-3), one.name


def test_stored_errors_are_those_of_the_stored_folds(runs: training.TrainingData) -> None:
    fit = load_fit(FIT)
    predicted_N = training.left_out(runs, folds_of(fit))
    for part in ("all", "sc21", "h100", "bridge", "mlsys23"):
        among_N = np.array([part in ("all", one.group[0]) for one in runs.rows])
        now = left_out_errors(part, "iteration_time", predicted_N, runs.measured_N, runs.group_N, among_N)
        before = fit.error(part, "iteration_time")
        assert now.rows == before.rows
        assert now.median_ape == pytest.approx(before.median_ape, abs=2e-3)
        assert now.band == pytest.approx(before.band, rel=0.02)


@pytest.mark.parametrize(("part", "most"), [("sc21", 0.08), ("bridge", 0.14), ("all", 0.10)])
def test_left_out_errors_stay_small(part: str, most: float) -> None:
    assert load_fit(FIT).error(part, "iteration_time").median_ape <= most


def test_the_band_holds_nine_in_ten(runs: training.TrainingData) -> None:
    assert 0.85 <= load_fit(FIT).error("all", "iteration_time").coverage <= 0.95


# -- runs from measured layers


def test_measured_constants_are_what_the_fit_gives(measured: training_measured.MeasuredData) -> None:
    stored = load_fit(MEASURED).constants
    found = training_measured.fit_constants(measured, np.ones(len(measured.rows), dtype=bool))
    for name, value in found.items():
        assert value == pytest.approx(stored[name], rel=1e-3), name


def test_measured_errors_are_those_of_the_folds(measured: training_measured.MeasuredData) -> None:
    fit = load_fit(MEASURED)
    assert fit.rows == len(measured.rows) == 19
    seconds_N, memory_N = training_measured.left_out(measured, folds_of(fit))
    cases: Sequence[tuple[str, Any, Any]] = (
        ("iteration_time", seconds_N, measured.seconds_N),
        ("peak_memory", memory_N, measured.memory_N),
    )
    for figure, predicted_N, truth_N in cases:
        for part, among_N in (("alike", measured.alike_N), ("mixed", ~measured.alike_N)):
            now = left_out_errors(part, figure, predicted_N, truth_N, measured.group_N, among_N)
            assert now.mean_ape == pytest.approx(fit.error(part, figure).mean_ape, abs=1e-3)


def test_measured_layers_reach_their_targets() -> None:
    fit = load_fit(MEASURED)
    assert fit.error("alike", "iteration_time").mean_ape <= 0.05
    assert fit.error("alike", "peak_memory").mean_ape <= 0.04
    assert fit.error("mixed", "iteration_time").mean_ape <= 0.08


# -- memory by the papers' formulas


def test_memory_of_the_first_stage() -> None:
    """MLSys 2023, figure 1: nothing fitted."""
    rows = accuracy_of("training_mlsys23_fig1_memory_gib").comparisons
    assert len(rows) == 8
    assert float(np.mean([abs(row.deviation) for row in rows])) <= 0.03


@pytest.mark.parametrize(
    ("column", "recompute", "parallel", "keeps"),
    [
        ("seqpar_pct", "none", True, True),
        ("selective_pct", "selective", False, True),
        ("seqpar_selective_pct", "selective", True, True),
        ("full_pct", "full", False, False),
    ],
)
def test_shares_of_activations(column: str, recompute: Any, parallel: bool, keeps: bool) -> None:
    """MLSys 2023, figure 7, eight-way tensor parallelism: per cent of what no recomputation holds."""

    def held(name: str, how: Any, parallel: bool) -> float:
        one = activations(
            model_of(name),
            8,
            sequences_B=np.array([1.0]),
            sequence_length=2048,
            recompute=how,
            sequence_parallel=parallel,
            flash_attention=False,
        )
        return float(one.saved_KB[0, 0])

    for row in load_truth("training_mlsys23_fig7_activation_pct").rows:
        share = 100.0 * held(row.text("model"), recompute, parallel) / held(row.text("model"), "none", False)
        assert share == pytest.approx(row.number_of(column), abs=0.6), row.text("model")


def test_left_out_predictions_differ_from_fitted_ones() -> None:
    for name in ("training_megatron_sc21", "training_sailor"):
        fitted = [row.predicted for row in accuracy_of(name).comparisons]
        unseen = [row.predicted for row in accuracy_of(name, left_out=True).comparisons]
        assert len(fitted) == len(unseen)
        assert fitted != unseen
