"""The picture of predictions shows every comparison once."""

from __future__ import annotations

import pytest

from planner.errors import InputError
from planner.profiling.accuracy import accuracy_of, load_truth
from planner.profiling.accuracy.table import Table
from planner.report.plots import plot_accuracy


def test_every_point_is_drawn() -> None:
    results = [accuracy_of(name) for name in ("training_sailor", "trtllm_first_token_latency")]
    picture = plot_accuracy(results)
    panels = picture.get_axes()
    assert [panel.get_title(loc="left").split(":")[0] for panel in panels] == ["TTFT", "Iteration time", "Peak memory"]
    for panel, figure in zip(panels, ("ttft", "iteration_time", "peak_memory"), strict=True):
        wanted = sorted(
            (one.measured, one.predicted) for result in results for one in result.comparisons if one.figure == figure
        )
        drawn = [line for line in panel.get_lines() if line.get_linestyle() == "None"]
        points = sorted(
            (float(x), float(y))
            for line in drawn
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)  # type: ignore[arg-type]
        )
        assert points == [(pytest.approx(x), pytest.approx(y)) for x, y in wanted]
        low, high = panel.get_xlim()
        assert all(low < value < high for point in points for value in point)
    groups = {(one.model, one.device, one.engine) for result in results for one in result.comparisons}
    assert 8 < len(picture.legends[0].get_texts()) <= len(groups)


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="no row was predicted"):
        table = load_truth("training_mlsys23_fig7_activation_pct")
        plot_accuracy([accuracy_of(Table(table.name, table.where, table.columns, table.rows))])
