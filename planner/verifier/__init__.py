"""The independent check of a plan; shares the cost model with the search and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cluster import load_cluster
from planner.engine import load_engine
from planner.errors import InputError
from planner.model import load_model
from planner.plan import ServingPlan
from planner.resources import sha256_of
from planner.verifier.findings import Finding
from planner.verifier.serving import check_serving
from planner.verifier.training import check_training

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import ModelInput, Plan

__all__ = ["Finding", "verify"]


def verify(
    plan: Plan,
    *,
    model: ModelSpec | None = None,
    cluster: Cluster | None = None,
    engine: EngineProfile | None = None,
) -> list[Finding]:
    """Check a plan against what it was made for.

    Parameters
    ----------
    plan
        The plan.
    model, cluster, engine
        What it was made for; None loads what the plan names (shipped names, or paths as they were given).

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
    model = model or _model(inputs.model)
    cluster = cluster or load_cluster(inputs.cluster.name)
    engine = engine or load_engine(inputs.engine.name)
    findings = [
        Finding("input-changed", "inputs", f"{what} is not the one that the plan was made for (its content differs)")
        for what, stated, found in (
            (f"model {inputs.model.name}", inputs.model.sha256, model.sha256),
            (f"cluster {inputs.cluster.name}", inputs.cluster.sha256, cluster.sha256),
            (f"engine {inputs.engine.name}", inputs.engine.sha256, sha256_of(engine.model_dump_json())),
        )
        if stated != found
    ]
    if isinstance(plan, ServingPlan):
        return findings + check_serving(plan, model, cluster, engine)
    return findings + check_training(plan, model, cluster, engine)


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
