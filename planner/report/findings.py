"""What the check of a plan found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from planner.plan import ServingPlan
from planner.report.terminal import data_table
from planner.report.words import count_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.plan import Plan
    from planner.verifier import Finding

__all__ = ["checked_in_words", "findings_report"]


def findings_report(name: str, findings: Sequence[Finding]) -> RenderableType:
    """List what is wrong with a plan."""
    title = Text(f"{name} does not hold: {count_of(len(findings), 'fault')}", style="bold red")
    rows = [[finding.where, finding.message, finding.code] for finding in findings]
    return Group(title, data_table(["where", "what is wrong", "code"], rows, fold=("what is wrong",)))


def checked_in_words(name: str, plan: Plan) -> RenderableType:
    """Say that a plan holds, and what was checked of it."""
    if isinstance(plan, ServingPlan):
        stages = [stage for replica in plan.replicas for stage in replica.stages]
        figures = len(plan.predicted) + sum(len(replica.predicted) for replica in plan.replicas)
        pipelines = f"{count_of(len(plan.replicas), 'replica')}, {count_of(len(stages), 'stage')}"
        gpus = sum(len(stage.devices) for stage in stages)
        memory = len(stages)
    else:
        figures = len(plan.predicted)
        pipelines = count_of(len(plan.stages), "stage")
        gpus = sum(len(stage.devices) for stage in plan.stages)
        memory = len(plan.stages)
    text = Text("plan holds", style="bold green")
    checks = f"{count_of(gpus, 'GPU')}, layers and parallelism, {figures + memory} figures computed anew"
    text.append(f": {name}: {pipelines}, {checks}", style="not bold default")
    return text
