"""Pareto frontiers, and the picture of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.api import serving_problem
from planner.errors import InputError
from planner.report.frontier import CostPoint, LoadPoint, PlanCurve, envelope, merged, pareto, plan_curve
from planner.report.plots import plot_frontier
from planner.search.problem import Budget
from planner.search.registry import serving_method
from planner.workload import Slo, fixed_workload

POINTS = st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float)), min_size=1, max_size=12)


def curve(name: str, *, slow: float = 1.0, rates: tuple[float, ...] = (1.0, 2.0)) -> PlanCurve:
    return PlanCurve(
        name=name,
        loads=tuple(LoadPoint(rate, 0.5 * slow, 0.05 * slow * rate) for rate in rates),
        costs=tuple(CostPoint(rate, 3.0 * slow * rate) for rate in rates),
        cost_unit="USD/h",
    )


@given(POINTS)
def test_the_frontier_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    def dominated(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] <= point[1] for other in points)

    assert pareto(points) == sorted({point for point in points if not dominated(point)})


@given(POINTS)
def test_the_envelope_lies_under_every_curve_and_touches_one(points: list[tuple[float, float]]) -> None:
    rates = sorted({rate for rate, _ in points})
    one = [(rate, min(y for x, y in points if x == rate)) for rate in rates]
    other = [(rate, y + 1.0) for rate, y in one]
    lower = envelope([other, one])
    prices = [price for _, price in lower]
    assert prices == sorted(prices)
    assert prices[-1] == pytest.approx(one[-1][1])
    assert min(prices) == pytest.approx(min(y for _, y in one))


def test_alike_curves_become_one() -> None:
    kept = merged([curve("a"), curve("b", slow=2.0), curve("c"), curve("d", rates=(1.0, 2.0, 3.0))])
    assert [one.name for one in kept] == ["a, c", "b", "d"]


def test_a_plan_is_predicted_under_growing_load_and_with_fewer_replicas() -> None:
    problem = serving_problem("llama-3.1-8b", "l40s-l4-16", fixed_workload(512, 128, rate="max", slo=Slo(tpot=0.1)))
    plan = serving_method("pools")(problem, Budget()).plan
    found = plan_curve("pools", plan, problem)
    for values in ([p.rate for p in found.loads], [p.tpot for p in found.loads], [p.rate for p in found.costs]):
        assert values == sorted(values)
    assert found.loads[-1].rate == pytest.approx(plan.predicted["goodput"].value)
    assert found.loads[-1].tpot == pytest.approx(plan.predicted["tpot"].value)
    assert len(found.costs) == len(plan.replicas)
    assert found.costs[-1].rate == pytest.approx(plan.predicted["goodput"].value)
    assert found.costs[-1].cost == pytest.approx(plan.predicted["cost_per_hour"].value)
    per_request = [p.cost / p.rate for p in found.costs]
    assert per_request == pytest.approx(sorted(per_request))


def test_picture_names_every_plan_once_and_shows_the_slo(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = plot_frontier(
        [curve("exact"), curve("pools", slow=1.5), curve("even", slow=1.5)], Slo(ttft=2.0, tpot=0.2), title="a title"
    )
    figure.savefig(tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Pareto frontier of all", "exact", "pools, even"]
    written = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert written == ["SLO 2, far above", "SLO"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["TTFT (p90), s", "TPOT, ms", "cost, USD per hour"]


def test_no_plan_no_picture() -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="nothing to draw"):
        plot_frontier([], Slo())
