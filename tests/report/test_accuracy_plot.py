"""The picture of predictions shows every comparison once."""

from __future__ import annotations

import pytest

from planner.errors import InputError
from planner.profiling.accuracy import accuracy_of
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
    assert len(picture.legends[0].get_texts()) == 8


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="no row was predicted"):
        plot_accuracy([accuracy_of("serving_silicon_disagg")])
