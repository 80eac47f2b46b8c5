"""The independent check of a plan; shares the cost model with the search and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cluster import load_cluster
from planner.engine import load_engine
from planner.errors import InputError
from planner.model import ModelSpec, load_model
from planner.plan import ServingInputs, ServingPlan
from planner.resources import sha256_of
from planner.verifier.findings import Finding
from planner.verifier.serving import check_serving
from planner.verifier.training import check_training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster
    from planner.engine import EngineProfile
    from planner.plan import ModelInput, Plan

__all__ = ["Finding", "verify"]


def verify(
    plan: Plan,
    *,
    model: ModelSpec | Sequence[ModelSpec] | None = None,
    cluster: Cluster | None = None,
    engine: EngineProfile | None = None,
) -> list[Finding]:
    """Check a plan against what it was made for.

    Parameters
    ----------
    plan
        The plan.
    model, cluster, engine
        What it was made for, of several models all in the plan's order; None loads what the plan names (shipped names,
        or paths as they were given).

    Returns
    -------
    list of Finding
        Everything that is wrong; empty for a sound plan.

    Raises
    ------
    InputError
        If a named input cannot be loaded.
    """
    inputs = plan.inputs
    stated = [one.model for one in inputs.served] if isinstance(inputs, ServingInputs) else [inputs.model]
    if model is None:
        models = [_model(one) for one in stated]
    else:
        models = [model] if isinstance(model, ModelSpec) else list(model)
    if len(models) != len(stated):
        raise InputError(
            f"{len(models)} models are given for a plan with {len(stated)}",
            expected="one for each",
            hint="check it from the folder that the plan was made in",
        )
    cluster = cluster or load_cluster(inputs.cluster.name)
    engine = engine or load_engine(inputs.engine.name)
    findings = [
        Finding("input-changed", "inputs", f"{what} is not the one that the plan was made for (its content differs)")
        for what, hashed, found in (
            *((f"model {s.name}", s.sha256, m.sha256) for s, m in zip(stated, models, strict=True)),
            (f"cluster {inputs.cluster.name}", inputs.cluster.sha256, cluster.sha256),
            (f"engine {inputs.engine.name}", inputs.engine.sha256, sha256_of(engine.model_dump_json())),
        )
        if hashed != found
    ]
    if isinstance(plan, ServingPlan):
        return findings + check_serving(plan, models, cluster, engine)
    return findings + check_training(plan, models[0], cluster, engine)


def _model(stated: ModelInput) -> ModelSpec:
    """Load a model in the formats that the plan was made for: the file's own, or an override."""
    try:
        model = load_model(stated.name)
    except InputError as error:
        raise InputError(
            error.what,
            where=error.where,
            field=error.field,
            expected=error.expected,
            hint="check it from the folder that the plan was made in, or give the model (--model)",
        ) from None
    if (model.weight_dtype, model.kv_dtype) == (stated.weight_dtype, stated.kv_dtype):
        return model
    return load_model(stated.name, weight_dtype=stated.weight_dtype, kv_dtype=stated.kv_dtype)
