"""Plans under Metis' or Sailor's prices on the terminal, and what of a result list of Metis holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from planner.report.terminal import block, data_table, heading
from planner.report.words import format_layers, format_memory
from planner.units import format_seconds

if TYPE_CHECKING:
    from planner.cost.metis_results import MetisResult, PlacedMetisPlan
    from planner.search.training.referees import MeasuredPlan

__all__ = ["measured_plan_report", "metis_result_report", "metis_results_in_words"]

_WHOSE = {
    "metis": "Metis' published formula, every stage priced, the links between nodes read",
    "sailor": "Sailor's tables and formula, as its simulator prices a plan",
    "own": "measured layers with this planner's own terms for links, updates and memory",
}
_LAYERS = {
    "measured": "measured",
    "fitted": "some interpolated between measured ones",
    "spec": "some beyond what was measured",
}


def measured_plan_report(plan: MeasuredPlan, *, searched: str | None = None) -> RenderableType:
    """Lay out a plan."""
    rows = {
        "time of an iteration": f"{format_seconds(plan.seconds)} ({1.0 / plan.seconds:.4g} iterations/s)",
        "priced by": _WHOSE[plan.cost_model],
        "layer times": _LAYERS[plan.provenance],
        "microbatches": str(plan.microbatches),
        "proven": "nothing is faster" if plan.proven else f"nothing is more than {plan.gap:.2%} faster",
    }
    columns = ["stage", "layers", ">replicas", "GPU", ">TP", ">sequences each", ">GiB per GPU"]
    stages = [
        (
            str(number),
            format_layers(stage.layers),
            str(one.count),
            one.gpu,
            str(one.tp),
            str(one.sequences),
            format_memory(one.memory, one.limit),
        )
        for number, stage in enumerate(plan.stages)
        for one in stage.replicas
    ]
    parts: list[RenderableType] = [heading("Training plan"), block(rows), Text(), data_table(columns, stages)]
    if searched is not None:
        parts.append(Text(searched, style="dim"))
    return Group(*parts)


def metis_result_report(result: MetisResult, placed: PlacedMetisPlan) -> RenderableType:
    """Lay out a plan of Metis with its price, or what is wrong with it."""
    price = placed.price
    rows = {"Metis says": f"{result.cost:,.2f} ms"}
    if price is not None:
        rows["it really costs"] = f"{price.seconds * 1e3:,.2f} ms by the same formula, without the errors in the code"
    rows["microbatches"] = str(result.microbatches)
    parts: list[RenderableType] = [heading(f"Plan of rank {result.rank}"), block(rows), Text()]
    if price is not None:
        columns = ["stage", "layers", "replicas", ">microbatch", ">update", ">sync", ">hop", ">GB per GPU"]
        table = [
            (
                str(s),
                format_layers(stage.layers),
                ", ".join(f"{one.count} x {one.tp} {one.device} ({one.share})" for one in stage.replicas),
                *(format_seconds(float(values[s])) for values in (price.stage_S, price.update_S, price.sync_S,
                  price.hop_S)),
                f"{placed.memory_S[s] / 1e9:.1f} of {placed.limit_S[s] / 1e9:.1f}",
            )
            for s, stage in enumerate(placed.stages)
        ]  # fmt: skip
        parts.append(data_table(columns, table, fold=("replicas",)))
    if placed.faults:
        parts += [heading("This is no plan"), *(Text(f"  {fault}") for fault in placed.faults)]
    else:
        parts.append(Text("complete, and fits"))
    return Group(*parts)


def metis_results_in_words(placed: list[tuple[MetisResult, PlacedMetisPlan]]) -> str:
    """Say how many plans of a list hold, and which of those is best."""
    sound = [(plan.price.seconds, result) for result, plan in placed if plan.price is not None and not plan.faults]
    lost = sum(any("loses layers" in fault for fault in plan.faults) for _, plan in placed)
    empty = sum(any("holds no layer" in fault for fault in plan.faults) for _, plan in placed)
    text = f"{len(sound)} of {len(placed)} plans of the list are complete and fit"
    text += f" ({lost} lose layers, {empty} have an empty stage)"
    if not sound:
        return text
    seconds, best = min(sound, key=lambda pair: (pair[0], pair[1].rank))
    return f"{text}; the best of them is rank {best.rank}: {seconds * 1e3:,.2f} ms"
