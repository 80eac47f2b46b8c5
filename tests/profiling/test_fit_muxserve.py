"""MuxServe's iterations: every model is predicted by constants that have not seen it."""

from __future__ import annotations

import numpy as np
import pytest

from planner.engine.fitted import load_fit
from planner.profiling.accuracy import accuracy_of, load_truth
from planner.profiling.accuracy.muxserve import MuxRows
from planner.profiling.accuracy.table import Row
from planner.profiling.fit.muxserve import CONSTANTS, cross_validate, left_out
from planner.profiling.tables import measured_dir, read_measured


@pytest.fixture(scope="module")
def rows() -> MuxRows:
    read, skipped = MuxRows.of(load_truth("muxserve_latency").rows)
    assert read is not None
    assert skipped == []
    return read


def test_left_out_models_are_within_ten_per_cent(rows: MuxRows) -> None:
    folds = cross_validate(rows)
    assert [fold.group and fold.group[0] for fold in folds] == ["llama-13b", "llama-65b", "llama-7b", None]
    missed = np.abs(left_out(rows, folds) / rows.measured_B - 1.0)
    assert missed.mean() < 0.08
    for model in set(rows.models):
        assert missed[np.array(rows.models) == model].mean() < 0.10, model


def test_a_fold_has_not_seen_its_model(rows: MuxRows) -> None:
    """Scaling what one model measured changes every constant but those fitted without it."""
    other = MuxRows(
        **{name: getattr(rows, name) for name in MuxRows.__slots__ if name != "measured_B"},
        measured_B=np.where(np.array(rows.models) == "llama-65b", 1.5, 1.0) * rows.measured_B,
    )
    before, after = (
        {fold.group and fold.group[0]: fold.values for fold in cross_validate(one)} for one in (rows, other)
    )
    assert before["llama-65b"] == after["llama-65b"]
    assert before["llama-7b"] != after["llama-7b"]


def test_stored_constants_are_those_of_the_fit(rows: MuxRows) -> None:
    stored = load_fit("muxserve")
    whole = cross_validate(rows)[-1].values
    assert set(stored.constants) == {constant.name for constant in CONSTANTS}
    # the optimum is flat in some directions: what the constants predict is what must agree
    ratio = rows.seconds_B(stored.constants) / rows.seconds_B(whole)
    assert np.abs(ratio - 1.0).max() < 0.02
    assert stored.error("all", "iteration").mean_ape < 0.08


def test_more_work_never_takes_less_time(rows: MuxRows) -> None:
    seconds_B = rows.seconds_B(load_fit("muxserve").constants)
    by_setting = {
        (r.text("model"), r.text("phase"), r.whole("tp"), r.whole("batch"), r.whole("seq")): s
        for r, s in zip(rows.rows, seconds_B.tolist(), strict=True)
    }
    pairs = 0
    for (model, phase, tp, batch, seq), seconds in by_setting.items():
        for larger in ((model, phase, tp, 2 * batch, seq), (model, phase, tp, batch, 2 * seq)):
            if larger in by_setting:
                pairs += 1
                assert by_setting[larger] >= 0.99 * seconds  # surfaces are measured: half a per cent of noise
    assert pairs > 1000


def test_truth_file_and_imported_table_agree() -> None:
    table = read_measured(measured_dir() / "a100_sxm_80" / "muxserve_iterations.csv")
    whole = table["sm_percent"] == 100
    names = ("model", "tp", "batch", "tokens", "phase")
    measured = dict(
        zip(
            zip(*(table[name][whole].tolist() for name in names), strict=True),
            table["seconds"][whole].tolist(),
            strict=True,
        )
    )
    truth = load_truth("muxserve_latency").rows
    assert len(truth) == len(measured)
    for row in truth:
        key = (row.text("model"), row.whole("tp"), row.whole("batch"), row.whole("seq"), row.text("phase"))
        assert measured[key] == pytest.approx(row.number_of("seconds"), rel=1e-5)


def test_planner_accuracy_leaves_models_out() -> None:
    seen, unseen = (accuracy_of("muxserve_latency", left_out=out) for out in (False, True))
    for fit, forecast in zip(seen.overall, unseen.overall, strict=True):
        assert fit.figure == forecast.figure
        assert fit.mean_ape < forecast.mean_ape < 0.10
        assert 0.85 <= forecast.coverage90 <= 0.95


def test_rows_that_cannot_be_priced_say_why() -> None:
    def row(number: int, **changed: str) -> Row:
        fields = {"model": "llama-7b", "tp": "1", "batch": "1", "seq": "32", "phase": "decode", "seconds": "0.01"}
        return Row(number, number, "t.csv", fields | changed)

    read, skipped = MuxRows.of([row(1), row(2, phase="both"), row(3, model="llama-8x"), row(4, tp="3")])
    assert read is not None
    assert [one.number for one in read.rows] == [1]
    assert [one.row for one in skipped] == [2, 3, 4]
