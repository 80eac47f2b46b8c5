"""Methods side by side on one problem: one table, and the same for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.text import Text

from planner.report.frontier import PlanCurve, envelope, pareto
from planner.report.terminal import block, data_table, heading
from planner.report.words import format_figure, format_number
from planner.report.workload import format_lengths, format_rate, format_slo
from planner.search.side_by_side import MethodOutcome, gap_of, proven_bound

if TYPE_CHECKING:
    from planner.plan import ServingPlan
    from planner.search.problem import ServingProblem

__all__ = ["methods_data", "methods_table"]

_SMALL: Final = 5e-5
_EQUAL: Final = 1e-3  # relative distance of two goodputs below which one equals the other
_BY_HAND: Final = ("pools", "even", "even-vllm", "even-sglang")  # what people do without a planner


def methods_table(problem: ServingProblem, outcomes: Sequence[MethodOutcome]) -> RenderableType:
    """Lay methods side by side.

    Parameters
    ----------
    problem
        What they were given.
    outcomes
        What they came to, in the order of the rows.
    """
    workload = problem.workload
    facts = {
        "model": f"{problem.model.name}, {problem.model.weight_dtype}",
        "cluster": f"{problem.cluster.name}, {problem.cluster.num_gpus} GPUs",
        "engine": problem.engine.title,
        "workload": f"{workload.name}: {format_lengths(workload)}; {format_rate(workload.rate)}",
        "SLO": format_slo(workload.slo),
    }
    columns = [
        "method", ">goodput/s", ">of best", ">TTFT", ">TPOT", ">cost/h", ">GPUs", ">per M tokens", ">search", ">gap",
    ]  # fmt: skip
    plans = [one.plan for one in outcomes if one.plan is not None]
    best = max((_value(plan, "goodput") or 0.0 for plan in plans), default=0.0)
    rows: list[list[str | Text]] = []
    for one in outcomes:
        if one.plan is None:
            rows.append([one.method, Text("no plan", style="dim"), *[""] * 6, f"{one.seconds:.2f} s", ""])
            continue
        goodput = _value(one.plan, "goodput") or 0.0
        rows.append(
            [
                one.method,
                format_number(goodput),
                f"{goodput / best:.1%}" if best else "",
                _written(one.plan, "ttft"),
                _written(one.plan, "tpot"),
                _written(one.plan, "cost_per_hour", unit=False),
                format_number(_value(one.plan, "gpus") or 0.0),
                _written(one.plan, "cost_per_million_output_tokens", unit=False),
                f"{one.seconds:.2f} s",
                _gap(one.plan, outcomes),
            ]
        )
    parts: list[RenderableType] = [block(facts), Text(), data_table(columns, rows)]
    parts += [Text(line, style="dim") for line in _notes(outcomes)]
    return Group(heading("Methods side by side"), *parts)


def methods_data(
    problem: ServingProblem, outcomes: Sequence[MethodOutcome], curves: Sequence[PlanCurve] = ()
) -> dict[str, object]:
    """Return the same for programs, with each plan's curve where there is one, and the frontiers of all."""
    bound = proven_bound(outcomes)
    by_name = {curve.name: curve for curve in curves}
    data: dict[str, object] = {
        "kind": "serving",
        "model": problem.model.name,
        "cluster": problem.cluster.name,
        "engine": problem.engine.name,
        "workload": problem.workload.model_dump(mode="json"),
        "bound": None if bound is None else bound.model_dump(mode="json"),
        "methods": [
            {
                "method": one.method,
                "seconds": one.seconds,
                "counts": dict(one.counts),
                "history": list(one.history) or None,
                "why_not": one.why_not or None,
                "predicted": None
                if one.plan is None
                else {name: figure.model_dump(mode="json") for name, figure in one.plan.predicted.items()},
                "certificate": None if one.plan is None else one.plan.certificate.model_dump(mode="json"),
                "gap": None if one.plan is None or bound is None else gap_of(one.plan, bound),
                "curve": _curve_data(by_name[one.method]) if one.method in by_name else None,
            }
            for one in outcomes
        ],
    }
    if curves:
        data["frontier"] = {
            "ttft": pareto(envelope([[(p.rate, p.ttft) for p in curve.loads] for curve in curves])),
            "tpot": pareto(envelope([[(p.rate, p.tpot) for p in curve.loads] for curve in curves])),
            "cost": pareto([(p.rate, p.cost) for curve in curves for p in curve.costs]),
        }
    return data


def _curve_data(curve: PlanCurve) -> dict[str, object]:
    return {
        "loads": [{"rate": p.rate, "ttft": p.ttft, "tpot": p.tpot} for p in curve.loads],
        "costs": [{"rate": p.rate, "cost": p.cost} for p in curve.costs],
        "cost_unit": curve.cost_unit,
    }


def _value(plan: ServingPlan, name: str) -> float | None:
    figure = plan.predicted.get(name)
    return None if figure is None else figure.value


def _written(plan: ServingPlan, name: str, *, unit: bool = True) -> str:
    figure = plan.predicted.get(name)
    if figure is None:
        return "not known"
    return format_figure(figure) if unit else f"${figure.value:,.2f}"


def _gap(plan: ServingPlan, outcomes: Sequence[MethodOutcome]) -> str:
    bound = proven_bound(outcomes)
    gap = None if bound is None else gap_of(plan, bound)
    if gap is None:
        return "-"
    if gap < -_SMALL:
        return f"{gap:.2%}"
    return "0 %" if gap < _SMALL else f"{gap:.2%}" if gap < 0.1 else f"{gap:.1%}"


def _notes(outcomes: Sequence[MethodOutcome]) -> list[str]:
    """What the gap is to, and why methods have no plan."""
    bound = proven_bound(outcomes)
    if bound is None:
        lines = ["gap: unknown; none of these methods proves a bound (exact does)"]
    else:
        most, what = ("more", "most") if bound.sense == "max" else ("less", "least")
        lines = [
            f"gap: to {format_number(bound.value if bound.proven else bound.bound)} {bound.unit}, the {what}"
            f" {bound.objective.replace('_', ' ')} that is {'reached' if bound.proven else 'not ruled out'}"
            f" among {bound.family.split(':')[0]}"
        ]
        if any(one.plan and (gap_of(one.plan, bound) or 0.0) < -_SMALL for one in outcomes):
            lines.append(f"gap below 0: {most} than any plan of that family; the plan is outside of it")
        asked = [one.plan for one in outcomes if one.plan is not None and gap_of(one.plan, bound) is None]
        if asked:
            lines.append("gap -: the plan does not meet the demand, or its figure is not known")
    lines += _against_hand(outcomes)
    return lines + [f"{one.method}: {one.why_not}" for one in outcomes if one.plan is None]


def _against_hand(outcomes: Sequence[MethodOutcome]) -> list[str]:
    """What the exact plan serves against what people do by hand; nothing where a demand limits both."""
    plans = {one.method: one.plan for one in outcomes if one.plan is not None}
    exact = next((plans[name] for name in ("exact", "templates") if name in plans), None)
    if exact is None or exact.certificate.objective != "goodput":
        return []
    value = _value(exact, "goodput") or 0.0
    told = []
    for name in _BY_HAND:
        other = _value(plans[name], "goodput") if name in plans else None
        if other:
            ratio = value / other
            told.append(f"equals {name}" if abs(ratio - 1) < _EQUAL else f"serves {ratio:.2f} times what {name} does")
    return [f"exact {', '.join(told)}"] if told else []
