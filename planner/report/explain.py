"""Why a serving plan looks as it does, on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from planner.report.terminal import block, data_table, heading
from planner.report.words import format_number
from planner.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.plan import ServingPlan
    from planner.search.explain import Binding, Explanation

__all__ = ["explanation_report"]


def explanation_report(explanation: Explanation, plan: ServingPlan, cluster: Cluster) -> RenderableType:
    """Tell what binds each replica, what more GPUs would add, and what was passed over."""
    parts: list[RenderableType] = [heading("What keeps each replica from serving more"), _bindings(explanation, plan)]
    names = [node_class.name for node_class in cluster.classes]
    kept = [f"{format_number(alone)} requests/s at most" for alone in explanation.alone_C]
    if plan.certificate.sense == "max":
        unit, worth = plan.certificate.unit, explanation.price_C
        more = [f"+{format_number(price)} {unit}" if price > 1e-9 else "nothing" for price in worth]
        parts += [
            Text(),
            heading("What one more GPU would add, were replicas divisible"),
            block(list(zip(names, more, strict=True))),
        ]
    parts += [Text(), heading("What each node class serves alone"), block(list(zip(names, kept, strict=True)))]
    if explanation.alternatives:
        rows = []
        for other in explanation.alternatives:
            stages = " + ".join(
                f"{count} x {kind.tp}x{cluster.classes[kind.node_class].device.name}" for kind, count in other.stages
            )
            rows.append([stages, format_number(other.rate), format_number(other.worth)])
        parts += [
            Text(),
            heading("Replicas that came closest to being used"),
            data_table(["stages", ">serves at most/s", ">its GPUs serve elsewhere/s"], rows, fold=("stages",)),
        ]
    return Group(*parts)


def _bindings(explanation: Explanation, plan: ServingPlan) -> RenderableType:
    lines: dict[str, list[str]] = {}
    for binding in explanation.bindings:
        lines.setdefault(_in_words(binding), []).append(binding.replica)
    shown = {ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}": text for text, ids in lines.items()}
    return block(shown) if plan.replicas else Text("no replicas")


def _in_words(binding: Binding) -> str:
    if binding.constraint == "KV cache":
        text = (
            f"KV cache on stage {binding.stage}: one more step of the batch needs {format_bytes(binding.needed)} per"
            f" GPU of {format_bytes(binding.had)}"
        )
    elif binding.constraint in {"TPOT", "TTFT"}:
        text = (
            f"{binding.constraint}: one more step of the batch makes it {format_seconds(binding.needed)} of"
            f" {format_seconds(binding.had)}; the slowest stage is {binding.stage}"
        )
    elif binding.constraint == "prefill":
        text = f"prefill: prompts would come faster than stage {binding.stage} computes them"
    elif binding.constraint == "tokens of an iteration":
        text = f"an iteration: {binding.needed:,.0f} tokens would be due of {binding.had:,.0f}"
    else:
        text = f"a larger batch gains nothing; the slowest stage is {binding.stage}"
    return f"{text}; links take {binding.link_share:.0%} of a token's way" if binding.link_share >= 0.005 else text
