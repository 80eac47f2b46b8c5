"""Measured layers: points come back as they are, a power law is hit between them, and errors are honest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.measured_layers import MeasuredLayers, MeasuredTimes
from planner.errors import InputError
from planner.profiling.tables import MeasuredTable, measured_dir, read_measured


def table(device: str, name: str) -> MeasuredTable:
    return read_measured(measured_dir() / device / f"{name}.csv")


def test_every_measured_training_point_comes_back() -> None:
    sailor = table("a100_sxm_40", "sailor_layers")
    layers = MeasuredLayers.training(sailor.columns, "opt-350m")
    assert layers.layers == 26
    rows = np.flatnonzero(sailor["model"] == "opt-350m")
    found = layers.at(sailor["tp"][rows], sailor["microbatch"][rows])
    assert found.measured_B.all()
    assert not found.beyond_B.any()
    assert found.provenance == "measured"
    values = layers.by_layer(found)
    for name in ("forward", "backward", "update"):
        np.testing.assert_allclose(
            values[name][np.arange(len(rows)), sailor["layer"][rows]], sailor[name][rows], rtol=1e-9, atol=1e-11
        )


def test_what_was_not_measured_is_labelled_and_never_fails() -> None:
    layers = MeasuredLayers.training(table("a100_sxm_40", "sailor_layers").columns, "opt-350m")
    found = layers.at([1, 1, 3, 16, 1], [4, 3, 4, 4, 4096])
    assert found.measured_B.tolist() == [True, False, False, False, False]
    assert found.beyond_B.tolist() == [False, False, False, True, True]
    assert found.provenance == "spec"
    assert (np.diff(found.error_B[[0, 1, 4]]) > 0).all()  # measured, between, far beyond
    total_B = layers.by_layer(found)["forward"].sum(axis=1)
    assert (total_B > 0).all()
    between, at = layers.at(1, 3), layers.at([1, 1], [2, 4])
    sums = layers.by_layer(at)["forward"].sum(axis=1)
    assert sums[0] < layers.by_layer(between)["forward"].sum() < sums[1]


def test_a_point_left_out_of_sailors_tables_is_found_within_its_stated_error() -> None:
    """Leave every inner microbatch out of a real table and interpolate it from the others."""
    sailor = table("gh200", "sailor_layers")
    missed, stated = [], []
    for model in ("opt-350m", "gpt-neo-2.7b"):
        rows = sailor["model"] == model
        for tp in (1, 2, 4):
            sizes = np.unique(sailor["microbatch"][rows & (sailor["tp"] == tp)])
            for size in sizes[1:-1]:
                kept = rows & ~((sailor["tp"] == tp) & (sailor["microbatch"] == size))
                without = MeasuredLayers.training({k: v[kept] for k, v in sailor.columns.items()}, model)
                whole = MeasuredLayers.training({k: v[rows] for k, v in sailor.columns.items()}, model)
                told, true = without.at(tp, size), whole.at(tp, size)
                assert not told.measured_B[0]
                missed.append(abs(told.values_BT.sum() / true.values_BT.sum() - 1.0))
                stated.append(told.error_B[0])
    assert np.mean(missed) < 0.15
    assert np.mean(np.array(missed) <= 2.0 * np.array(stated)) > 0.85


def test_serving_layers_by_tokens_and_sequences() -> None:
    columns = table("t4", "helix_layers").columns
    prefill = MeasuredLayers.serving(columns, "llama-2-70b", "prefill")
    found = prefill.at([1, 1, 2], [1000, 1100, 1000], 1)
    assert found.measured_B.tolist() == [True, False, True]
    assert found.values_BT[0, 0] < found.values_BT[1, 0]
    decode = MeasuredLayers.serving(columns, "llama-2-70b", "decode")
    assert decode.at(4, 870, 8).measured_B[0]
    assert not decode.at(4, 500, 8).measured_B[0]  # no other length was measured
    assert decode.at(4, 500, 8).beyond_B[0]


def test_iterations_of_the_whole_gpu_alone() -> None:
    columns = table("a100_sxm_80", "muxserve_iterations").columns
    found = MeasuredLayers.serving(columns, "llama-7b", "decode").at([1, 1], [512, 400], [128, 100])
    assert found.measured_B.tolist() == [True, False]
    assert found.values_BT[0, 0] == pytest.approx(0.0409, rel=0.01)
    assert 0.02 < found.values_BT[1, 0] < 0.0409


@given(st.floats(0.2, 1.5), st.floats(-1.0, 0.0), st.floats(1.0, 100.0), st.floats(1.0, 300.0))
def test_power_laws_are_exact_everywhere(in_size: float, in_tp: float, tp: float, size: float) -> None:
    points = [(t, m) for t in (1, 2, 8) for m in (1, 4, 16, 64)]
    times = MeasuredTimes(points, [[1e-3 * t**in_tp * m**in_size] for t, m in points], ("tp", "microbatch"))
    assert times.at(tp, size).values_BT[0, 0] == pytest.approx(1e-3 * tp**in_tp * size**in_size, rel=1e-6)


def test_ragged_tables_and_single_points() -> None:
    ragged = MeasuredTimes([(1, 1), (1, 2), (4, 8)], [[1.0], [2.0], [2.0]], ("tp", "microbatch"))
    assert ragged.at(2, 4).values_BT[0, 0] > 0
    one = MeasuredTimes([(1, 1)], [[1.0]], ("tp", "microbatch")).at([1, 2], [1, 2])
    assert one.measured_B.tolist() == [True, False]
    assert one.error_B[1] >= 0.5


def test_what_is_not_there_is_named() -> None:
    columns = table("a100_sxm_40", "sailor_layers").columns
    with pytest.raises(InputError, match=r"no layers of 'gpt5'\nexpected: one of gpt-neo-2\.7b"):
        MeasuredLayers.training(columns, "gpt5")
    with pytest.raises(InputError, match="a point twice"):
        MeasuredTimes([(1, 1), (1, 1)], [[1.0], [2.0]], ("tp", "microbatch"))
    with pytest.raises(InputError, match="no point"):
        MeasuredTimes(np.zeros((0, 2)), np.zeros((0, 1)), ("tp", "microbatch"))
