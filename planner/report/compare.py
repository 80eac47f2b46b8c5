"""Plans side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from planner.errors import InputError
from planner.plan import ServingPlan
from planner.report.certificate import format_gap
from planner.report.terminal import data_table
from planner.report.training import TRAINING_LABELS
from planner.report.words import format_figure
from planner.report.workload import format_lengths, format_rate, format_slo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.plan import Figure, Plan, TrainingPlan

__all__ = ["check_comparable", "comparison", "comparison_data"]

_SERVING: Final = {
    "goodput": "goodput",
    "rate": "rate served",
    "ttft": "TTFT",
    "tpot": "TPOT",
    "output_throughput": "output",
    "memory_peak": "memory of the fullest GPU",
    "gpus": "GPUs used",
    "cost_per_hour": "cost",
    "cost_per_million_output_tokens": "per million output tokens",
}
_SMALL: Final = 5e-4  # relative differences below it are not told


def check_comparable(named: Sequence[tuple[str, Plan]]) -> None:
    """Raise `InputError` unless all plans are for serving, or all for training."""
    first_name, first = named[0]
    for name, plan in named[1:]:
        if plan.kind != first.kind:
            raise InputError(
                f"is a {plan.kind} plan, while {first_name} is a {first.kind} plan",
                where=name,
                expected="plans of one kind",
                hint="compare serving plans with serving plans, and training plans with training plans",
            )


def comparison(named: Sequence[tuple[str, Plan]]) -> Table:
    """Lay plans side by side; differences are told against the first.

    Parameters
    ----------
    named
        Plans of one kind with what to call them.
    """
    plans = [plan for _, plan in named]
    rows: list[list[str | Text]] = []
    for label in _facts(plans[0]):
        texts = [_facts(plan)[label] for plan in plans]
        rows.append([label, *texts])
    labels = _SERVING if isinstance(plans[0], ServingPlan) else TRAINING_LABELS
    for key, label in labels.items():
        figures = [plan.predicted.get(key) for plan in plans]
        if any(figure is not None for figure in figures):
            rows.append([label, *(_cell(figure, figures[0], first=p == 0) for p, figure in enumerate(figures))])
    rows.append(["gap to the bound", *(format_gap(plan.certificate) for plan in plans)])
    names = [name for name, _ in named]
    return data_table(["", *names], rows, fold=["", *names])


def comparison_data(named: Sequence[tuple[str, Plan]]) -> dict[str, object]:
    """Return the same for programs: kind, and for each plan its facts, figures and certificate."""
    return {
        "kind": named[0][1].kind,
        "plans": [
            {
                "name": name,
                "inputs": _facts(plan),
                "predicted": {key: figure.model_dump(mode="json") for key, figure in plan.predicted.items()},
                "certificate": plan.certificate.model_dump(mode="json"),
            }
            for name, plan in named
        ],
    }


def _facts(plan: Plan) -> dict[str, str]:
    inputs = plan.inputs
    facts = {
        "model": f"{inputs.model.name}, {inputs.model.weight_dtype}",
        "cluster": inputs.cluster.name,
        "engine": inputs.engine.name,
    }
    if isinstance(plan, ServingPlan):
        served = plan.inputs.served
        workloads = [one.workload for one in served]
        return facts | {
            "model": "; ".join(f"{one.model.name}, {one.model.weight_dtype}" for one in served),
            "workload": "; ".join(f"{workload.name}: {format_lengths(workload)}" for workload in workloads),
            "asked": "; ".join(format_rate(workload.rate) for workload in workloads),
            "SLO": "; ".join(format_slo(workload.slo) for workload in workloads),
            "replicas": _replicas(plan),
        }
    return facts | _training_facts(plan)


def _training_facts(plan: TrainingPlan) -> dict[str, str]:
    job = plan.inputs.job
    stages = ", ".join(f"TP {stage.tp} x DP {stage.dp}" for stage in plan.stages)
    return {
        "job": f"{job.global_batch:,} x {job.sequence_length:,} tokens, ZeRO {job.zero_stage}",
        "stages": f"{len(plan.stages)}: {stages}",
        "microbatches": f"{plan.schedule.microbatches} of {plan.schedule.microbatch_size}",
    }


def _replicas(plan: ServingPlan) -> str:
    """Count replicas by shape: ``1 of TP 4 x 2 stages``."""
    shapes: dict[str, int] = {}
    for replica in plan.replicas:
        tps = [stage.tp for stage in replica.stages]
        tp = f"TP {tps[0]}" if len(set(tps)) == 1 else f"TP {'|'.join(map(str, tps))}"
        shape = f"{tp} x PP {len(tps)}"
        shapes[shape] = shapes.get(shape, 0) + 1
    return f"{len(plan.replicas)}: " + ", ".join(f"{count} of {shape}" for shape, count in shapes.items())


def _cell(figure: Figure | None, first_figure: Figure | None, *, first: bool) -> str | Text:
    if figure is None:
        return "not known"
    text = Text(format_figure(figure))
    if not first and first_figure is not None and first_figure.value:
        change = figure.value / first_figure.value - 1
        if abs(change) > _SMALL:
            text.append(f" ({change * 100:+.3g} %)", style="dim")
    return text
