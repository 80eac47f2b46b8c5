"""Search methods by name. A new method is a file beside this one and a line here; others come by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final

from planner.errors import InputError, unknown_name
from planner.plan import ServingPlan, TrainingPlan
from planner.search.baselines import search_even, search_even_sglang, search_even_vllm, search_pools
from planner.search.exact import search_exact
from planner.search.helr import search_he, search_helr, search_helr_bottleneck, search_lr
from planner.search.hexgen import search_hexgen
from planner.search.problem import Searcher, ServingProblem, TrainingProblem
from planner.search.serving import search_templates
from planner.search.training.uniform import search_uniform
from planner.search.volunteers import search_petals, search_swarm

__all__ = ["COMPARED", "SERVING_METHODS", "TRAINING_METHODS", "serving_method", "training_method"]

SERVING_METHODS: Final[Mapping[str, Searcher[ServingProblem, ServingPlan]]] = {
    "templates": search_templates,
    "exact": search_templates,  # the same by the name that says what it is for, beside the others
    "hexgen": search_hexgen,
    "helr": search_helr,
    "helr-he": search_he,
    "helr-lr": search_lr,
    "helr-bottleneck": search_helr_bottleneck,
    "even": search_even,
    "even-vllm": search_even_vllm,
    "even-sglang": search_even_sglang,
    "pools": search_pools,
    "petals": search_petals,
    "swarm": search_swarm,
}
TRAINING_METHODS: Final[Mapping[str, Searcher[TrainingProblem, TrainingPlan]]] = {
    "exact": search_exact,
    "metis": search_exact,  # by the name of the problem's first paper; its cost is `--cost-model metis`
    "uniform": search_uniform,
}

# What a comparison of all methods runs: the exact one, those of the literature, and what people do by hand.
COMPARED: Final = (
    "exact", "hexgen", "helr", "helr-he", "helr-lr", "pools", "even-vllm", "even-sglang", "petals", "swarm",
)  # fmt: skip

_SERVING_GROUP: Final = "hetplan.serving_methods"
_TRAINING_GROUP: Final = "hetplan.training_methods"


def serving_method(name: str) -> Searcher[ServingProblem, ServingPlan]:
    """Serving method of that name, built in or from the entry point group ``hetplan.serving_methods``."""
    if name in SERVING_METHODS:
        return SERVING_METHODS[name]
    found: Searcher[ServingProblem, ServingPlan] = _plugin(_SERVING_GROUP, name, SERVING_METHODS)
    return found


def training_method(name: str) -> Searcher[TrainingProblem, TrainingPlan]:
    """Training method of that name, built in or from the entry point group ``hetplan.training_methods``."""
    if name in TRAINING_METHODS:
        return TRAINING_METHODS[name]
    found: Searcher[TrainingProblem, TrainingPlan] = _plugin(_TRAINING_GROUP, name, TRAINING_METHODS)
    return found


def _plugin(group: str, name: str, built_in: Mapping[str, object]):  # type: ignore[no-untyped-def]
    offered = sorted(entry_points(group=group), key=lambda point: (point.name, point.value))
    matching = [point for point in offered if point.name == name]
    if len(matching) > 1:
        values = ", ".join(point.value for point in matching)
        raise InputError(f"search method {name!r} is offered more than once: {values}", hint="uninstall all but one")
    if not matching:
        raise unknown_name("search method", name, [*built_in, *(point.name for point in offered)])
    return matching[0].load()
