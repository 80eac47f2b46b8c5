"""How full the GPUs of every stage are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from planner.cost.memory import weight_bytes_L
from planner.cost.training_experts import expert_parameters_K
from planner.cost.training_memory import end_parameters, state_bytes
from planner.cost.training_stage import mixed_precision
from planner.dtypes import DTYPE_BYTES
from planner.engine.chunks import chunk_layers
from planner.plan import Plan, ServingPlan, Stage, TrainingStage
from planner.report.plots.placed import INK, MOST_ROWS, lighten, need_matplotlib, new_figure
from planner.report.words import model_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from planner.model import ModelSpec
    from planner.plan import TrainingPlan

__all__ = ["plot_memory"]

_GIB: Final = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    """One GPU of a stage, in GiB."""

    label: str
    state: float
    used: float
    limit: float
    error: float


def plot_memory(plan: Plan, model: ModelSpec | None = None) -> Figure:
    """Draw how full the GPUs of every stage are at the planned load, against what the engine may use.

    Parameters
    ----------
    plan
        A serving or training plan.
    model
        The model it was made for; with it, weights (in training with gradients and optimizer state) are told apart
        from the rest.

    Returns
    -------
    matplotlib.figure.Figure
        A bar for each stage in GiB per GPU, with what is free up to the limit, and the prediction's error. Of more than
        24 replicas, alike ones share a bar.

    Raises
    ------
    InputError
        If matplotlib is missing.
    """
    need_matplotlib()
    bars = _bars(plan, model)
    figure = new_figure(10, 1.45 + 0.34 * len(bars))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    y = list(range(len(bars)))
    used, limit = [bar.used for bar in bars], [bar.limit for bar in bars]
    state_name, rest_name = _names(plan)
    common: dict[str, Any] = {"height": 0.72}
    if model is not None:
        axes.barh(y, [bar.state for bar in bars], color="#4477AA", label=state_name, **common)
    rest = [bar.used - bar.state for bar in bars]
    name = rest_name if model is not None else "used"
    axes.barh(y, rest, left=[bar.state for bar in bars], color="#66CCEE", label=name, **common)
    free = [max(bar.limit - bar.used, 0.0) for bar in bars]
    axes.barh(
        y, free, left=used, color="#f4f4f4", edgecolor="#d0d0d0", hatch="///", linewidth=0, label="free", **common
    )
    errors = [bar.used * bar.error for bar in bars]
    axes.errorbar(
        used, y, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5, label="error of prediction"
    )
    axes.vlines(limit, [i - 0.4 for i in y], [i + 0.4 for i in y], color="#AA3377", linewidth=2.2, label="limit")
    for i, bar in enumerate(bars):
        text = f"{bar.used:.1f} of {bar.limit:.1f}"
        axes.text(bar.limit + 0.012 * max(limit), i, text, fontsize=8, color=INK, va="center")
    axes.set_yticks(y, [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, max(limit) * 1.12)
    axes.set_xlabel("GiB per GPU", color=INK)
    axes.set_title(f"Memory of {model_names(plan)} at the planned load", loc="left", fontsize=11, color=INK)
    lighten(axes)
    figure.legend(loc="outside lower left", ncols=5, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def _names(plan: Plan) -> tuple[str, str]:
    if isinstance(plan, ServingPlan):
        return "weights", "KV cache, activations, reserve"
    return "weights, gradients, optimizer state", "activations, reserve"


def _bars(plan: Plan, model: ModelSpec | None) -> list[_Bar]:
    if not isinstance(plan, ServingPlan):
        trained = None if model is None else mixed_precision(model)
        bars = []
        held = chunk_layers([one.layers[1] - one.layers[0] for one in plan.stages], plan.schedule.virtual_stages)
        for s, training_stage in enumerate(plan.stages):
            state = 0.0 if trained is None else _state(plan, trained, s, held[s])
            bars.append(_bar(f"stage {s}", state, training_stage))
        return bars
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, replica in enumerate(plan.replicas):
        kind = tuple((stage.tp, stage.layers, stage.memory.value, stage.memory_limit) for stage in replica.stages)
        alike.setdefault(kind if len(plan.replicas) > MOST_ROWS else (index,), []).append(index)
    bars = []
    for members in alike.values():
        replica = plan.replicas[members[0]]
        name = replica.id if len(members) == 1 else f"{len(members)} like {replica.id},"
        for s, stage in enumerate(replica.stages):
            state = 0.0 if model is None else _weights(model, stage.tp, stage.layers)
            label = f"{name} stage {s}" if len(replica.stages) > 1 else name.rstrip(",")
            bars.append(_bar(label, state, stage))
    return bars


def _state(plan: TrainingPlan, model: ModelSpec, s: int, chunks: Sequence[tuple[int, int]]) -> float:
    """Bytes of weights, gradients and optimizer state on each GPU of a stage; experts lie apart from the rest."""
    job, stage, apart = plan.inputs.job, plan.stages[s], plan.schedule.expert_parallel
    layers = [layer for chunk in chunks for layer in range(*chunk)]
    ends = end_parameters(model, stage.tp, first=s == 0, last=s == len(plan.stages) - 1)
    per_layer = weight_bytes_L(model, stage.tp) / DTYPE_BYTES[model.dtype]
    everything = float(per_layer[layers].sum()) + ends
    kinds = [model.kind_of_layer[layer] for layer in layers]
    experts = float(expert_parameters_K(model, stage.tp)[kinds].sum()) if apart > 1 else 0.0
    return state_bytes(job, stage.dp) * (everything - experts) + state_bytes(job, stage.dp // apart) * experts / apart


def _bar(label: str, state: float, stage: Stage | TrainingStage) -> _Bar:
    used = stage.memory.value
    return _Bar(
        label=label,
        state=min(state, used) / _GIB,
        used=used / _GIB,
        limit=stage.memory_limit / _GIB,
        error=stage.memory.error,
    )


def _weights(model: ModelSpec, tp: int, layers: tuple[int, int]) -> float:
    """Bytes of weights on each GPU of a stage."""
    first, end = layers
    ends = end_parameters(model, tp, first=first == 0, last=end == model.num_layers) * DTYPE_BYTES[model.dtype]
    return float(weight_bytes_L(model, tp)[first:end].sum()) + ends
