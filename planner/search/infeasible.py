"""Why no replica can serve: the constraint that binds, with what was needed, what is there, and what would help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.cost.memory import serving_activation_bytes, tensor_parallel_fault
from planner.cost.serving import Demand
from planner.dtypes import DTYPE_BYTES
from planner.engine import check_device, memory_budget
from planner.errors import InfeasibleError
from planner.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.search.problem import ServingProblem
    from planner.search.templates import StageKind, Templates

__all__ = ["explain_infeasible"]


def explain_infeasible(
    problem: ServingProblem, kinds: Sequence[StageKind], templates: Templates | None
) -> InfeasibleError:
    """Make the error for a problem without any feasible template.

    Parameters
    ----------
    problem
        The problem.
    kinds, templates
        Its stage kinds, and the templates that were priced; none of which can serve.
    """
    refusals = [
        check_device(problem.engine, vendor=c.device.vendor, compute_capability=c.device.compute_capability)
        for c in problem.cluster.classes
    ]
    if all(refusals):
        return InfeasibleError(f"no GPU of {problem.cluster.name} will do: {refusals[0]}", hint="another engine")
    if not kinds:
        return InfeasibleError(
            f"no tensor-parallel degree of {problem.model.name} fits a node: {tensor_parallel_fault(problem.model, 1)}",
            hint="another model or larger nodes",
        )
    demand = Demand.of(problem.workload, problem.engine)
    if templates is None:
        return InfeasibleError(
            f"every output token brings {demand.prefill_per_decode:,.0f} prompt tokens; an iteration of"
            f" {problem.engine.title} takes {demand.budget:,.0f} at most",
            hint="longer outputs, shorter prompts, or an engine profile with larger chunk_tokens",
        )
    if not templates.memory_B.any():
        return _memory(problem)
    slo = problem.workload.slo
    fits = templates.memory_B
    fastest = int(np.argmin(np.where(fits, templates.tpot_B, np.inf)))
    if slo.tpot is not None and templates.tpot_B[fastest] > slo.tpot:
        return InfeasibleError(
            f"no replica decodes a token within the TPOT of {format_seconds(slo.tpot)}: the best is"
            f" {format_seconds(float(templates.tpot_B[fastest]))}, {_on(problem, kinds, templates, fastest)}",
            hint=f"a TPOT of {format_seconds(float(templates.tpot_B[fastest]) * 1.1)} or more (for a single request),"
            f" {_smaller_format(problem)}or faster GPUs",
        )
    quickest = int(np.argmin(np.where(fits, templates.ttft_B, np.inf)))
    if slo.ttft is not None and templates.ttft_B[quickest] > slo.ttft:
        return InfeasibleError(
            f"no replica answers within the TTFT of {format_seconds(slo.ttft)} at the {slo.percentile:.0%} longest"
            f" prompt: the best is {format_seconds(float(templates.ttft_B[quickest]))} without any load,"
            f" {_on(problem, kinds, templates, quickest)}",
            hint=f"a TTFT of {format_seconds(float(templates.ttft_B[quickest]) * 1.1)} or more, or faster GPUs",
        )
    return InfeasibleError(
        f"no replica meets TTFT and TPOT together; apart, the best are TTFT"
        f" {format_seconds(float(templates.ttft_B[quickest]))} ({_on(problem, kinds, templates, quickest)}) and TPOT"
        f" {format_seconds(float(templates.tpot_B[fastest]))} ({_on(problem, kinds, templates, fastest)})",
        hint="a looser SLO, or faster GPUs",
    )


def _on(problem: ServingProblem, kinds: Sequence[StageKind], templates: Templates, row: int) -> str:
    """Describe the stages of a template: ``on 2 stages of 4xl40s``."""
    stages = [kinds[j] for j in templates.kinds_BS[row] if j >= 0]
    parts = []
    for kind in dict.fromkeys(stages):
        device = problem.cluster.classes[kind.node_class].device.name
        count = stages.count(kind)
        parts.append(f"{count} stage{'s' if count > 1 else ''} of {kind.tp}x{device}")
    return "on " + " and ".join(parts)


def _memory(problem: ServingProblem) -> InfeasibleError:
    """Tell how much memory the model needs against what the whole cluster has."""
    model, engine = problem.model, problem.engine
    offered = 0.0
    for node_class in problem.cluster.classes:
        activations = serving_activation_bytes(model, engine, node_class.gpus_per_node)
        budget = memory_budget(engine, node_class.device.memory.value, activations)
        offered += max(budget.capacity, 0.0) * node_class.num_gpus
    longest = problem.workload.total.max
    cache = longest * model.kv_bytes_per_token
    needed = model.weight_bytes + cache
    text = (
        f"{model.name} needs {format_bytes(needed)}: {format_bytes(model.weight_bytes)} of weights and"
        f" {format_bytes(cache)} of KV cache for its longest request ({longest:,.0f} tokens)"
    )
    if needed > offered:
        return InfeasibleError(
            f"{text}; all {problem.cluster.num_gpus} GPUs of {problem.cluster.name} together offer"
            f" {format_bytes(offered)}",
            hint=f"{_smaller_format(problem)}more GPUs, or shorter requests",
        )
    return InfeasibleError(
        f"{text}; no pipeline that was tried divides it over GPUs of {problem.cluster.name} so that every stage fits,"
        f" although together they offer {format_bytes(offered)}",
        hint=f"more stages with --max-stages, {_smaller_format(problem)}or shorter requests",
    )


def _smaller_format(problem: ServingProblem) -> str:
    """Name a smaller format for the weights, if there is one that is commonly served."""
    size = DTYPE_BYTES[problem.model.weight_dtype]
    smaller = next((name for name in ("fp8", "int4") if DTYPE_BYTES[name] < size), None)
    return "" if smaller is None else f"a smaller weight format such as --weight-dtype {smaller}, "
