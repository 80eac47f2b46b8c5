"""Placement compiler for large language models on heterogeneous GPU clusters.

>>> from planner import plan_serving
>>> plan = plan_serving("llama-3.1-8b", "1xh100", "azure-conv-2023", ttft=2.0, tpot=0.1, rate=2.0)
>>> plan.predicted["tpot"].value < 0.1
True
"""

from typing import TYPE_CHECKING, Any

from planner.version import __version__

if TYPE_CHECKING:
    from planner.api import (
        estimate,
        plan_fleet,
        plan_serving,
        plan_training,
        search_fleet,
        search_serving,
        search_training,
    )
    from planner.cluster import Cluster, load_cluster, load_device
    from planner.cost.estimates import ServingEstimates, ServingEstimator
    from planner.cost.load_pattern import LoadPattern
    from planner.engine import EngineProfile, load_engine
    from planner.errors import (
        InfeasibleError,
        InputError,
        PlannerError,
        SolverError,
        TimeLimitError,
        UnsupportedError,
    )
    from planner.model import ModelSpec, load_model
    from planner.plan import Plan, ServingPlan, TrainingPlan, load_plan, plan_schema, save_plan
    from planner.search.problem import Budget, ServedModel
    from planner.verifier import Finding, verify
    from planner.workload import Slo, Workload, fixed_workload, load_trace

__all__ = [
    "Budget",
    "Cluster",
    "EngineProfile",
    "Finding",
    "InfeasibleError",
    "InputError",
    "LoadPattern",
    "ModelSpec",
    "Plan",
    "PlannerError",
    "ServedModel",
    "ServingEstimates",
    "ServingEstimator",
    "ServingPlan",
    "Slo",
    "SolverError",
    "TimeLimitError",
    "TrainingPlan",
    "UnsupportedError",
    "Workload",
    "__version__",
    "estimate",
    "fixed_workload",
    "load_cluster",
    "load_device",
    "load_engine",
    "load_model",
    "load_plan",
    "load_trace",
    "plan_fleet",
    "plan_schema",
    "plan_serving",
    "plan_training",
    "save_plan",
    "search_fleet",
    "search_serving",
    "search_training",
    "verify",
]

# Names load on first use: `planner --help` must not wait for numpy.
_HOME = {
    "planner.api": (
        "estimate",
        "plan_fleet",
        "plan_serving",
        "plan_training",
        "search_fleet",
        "search_serving",
        "search_training",
    ),
    "planner.cluster": ("Cluster", "load_cluster", "load_device"),
    "planner.cost.estimates": ("ServingEstimates", "ServingEstimator"),
    "planner.cost.load_pattern": ("LoadPattern",),
    "planner.engine": ("EngineProfile", "load_engine"),
    "planner.errors": (
        "InfeasibleError",
        "InputError",
        "PlannerError",
        "SolverError",
        "TimeLimitError",
        "UnsupportedError",
    ),
    "planner.model": ("ModelSpec", "load_model"),
    "planner.plan": ("Plan", "ServingPlan", "TrainingPlan", "load_plan", "plan_schema", "save_plan"),
    "planner.search.problem": ("Budget", "ServedModel"),
    "planner.verifier": ("Finding", "verify"),
    "planner.workload": ("Slo", "Workload", "fixed_workload", "load_trace"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULE_OF[name]), name)
