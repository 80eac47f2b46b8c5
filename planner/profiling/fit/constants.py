"""Constants of the serving model that measurements decide, each pulled towards what it should be without them.

A constant is named after where it acts: ``kernels`` for all engines, ``iteration.vllm`` for one, ``load.gap.slot_wait``
for a load rule. Where few groups were measured, a free fit would explain one group's oddities by another's constant:
the prior keeps each near a physical value unless the measurements say otherwise, and it is what an engine that was
not measured gets.

Legend: R replica, B row, C constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.host_times import HostTimes
from planner.cost.loads import Loads

if TYPE_CHECKING:
    from planner.cost._types import Array

__all__ = ["ENGINES", "LATENCY", "OFFLINE", "SPLIT", "Constant", "host_times", "loads_with", "priors"]

ENGINES: Final = ("sglang", "trtllm", "vllm")


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant.

    Parameters
    ----------
    name
        What it is, and of whom.
    prior, spread
        What it should be, and how far from that it may well be: one standard deviation of the pull.
    why
        Where the prior comes from.
    """

    name: str
    prior: float
    spread: float
    why: str


def _of_engines(name: str, prior: float, spread: float, why: str) -> tuple[Constant, ...]:
    return tuple(Constant(f"{name}.{engine}", prior, spread, why) for engine in ENGINES)


# What decides end-to-end latency: fitted first, to TPOT, where nearly all of it is.
LATENCY: Final[tuple[Constant, ...]] = (
    Constant("kernels", 1.0, 0.1, "kernels were measured alone, back to back"),
    Constant("collectives", 1.0, 0.25, "all-reduces were measured alone, with all ranks in step"),
    Constant("quantise", 0.7, 0.4, "an extra read in 16 bit and write in 8 beside each of the four elementwise passes"),
    Constant("layer", 15e-6, 8e-6, "five small kernels of 3 us that no table holds"),
    Constant("eager", 20e-6, 20e-6, "ten launches of 2 us a layer, where the host is not ahead of the GPU"),
    Constant("sequence", 8e-6, 8e-6, "sampling and bookkeeping in Python, a few microseconds a sequence"),
    *_of_engines("iteration", 1e-3, 0.7e-3, "a scheduler step of the engines of 2025"),
    *_of_engines("prompt", 5e-3, 5e-3, "tokenising, admitting and scheduling one request"),
)
# What only divides that latency into TTFT and TPOT: fitted after it, to TTFT.
SPLIT: Final[tuple[Constant, ...]] = (
    *_of_engines("first_token", 50e-3, 40e-3, "HTTP, streaming and the load generator's own loop"),
    Constant("load.slot.slot_wait", 0.85, 0.3, "one client more than slots waits for about one release"),
    Constant("load.gap.prompt_wait", 1.6, 0.5, "prompts that are admitted together wait for each other"),
    Constant("load.stream.stream_interval", 17.0, 5.0, "stream_interval of 20 tokens, the first of them in time"),
)

# What a batch run costs, where requests lie ready in the engine's process.
OFFLINE: Final[tuple[Constant, ...]] = (
    Constant("kernels", 1.0, 0.1, "kernels were measured alone, back to back"),
    Constant("collectives", 1.0, 0.25, "all-reduces were measured alone, with all ranks in step"),
    Constant("quantise", 0.7, 0.4, "an extra read in 16 bit and write in 8 beside each of the four elementwise passes"),
    Constant("layer", 15e-6, 8e-6, "five small kernels of 3 us that no table holds"),
    Constant("eager", 20e-6, 20e-6, "ten launches of 2 us a layer, where the host is not ahead of the GPU"),
    Constant("sequence", 4e-6, 4e-6, "sampling in batches, by compiled code"),
    Constant("iteration", 1e-3, 0.7e-3, "a scheduler step"),
    Constant("prompt", 0.3e-3, 0.3e-3, "admitting a request that is tokens already"),
    Constant("first_token", 1e-3, 1e-3, "the way into the engine and back"),
    Constant("reserved_memory", 2.0 * 2**30, 1.5 * 2**30, "CUDA context, graphs and communication buffers"),
)


def priors(constants: Sequence[Constant]) -> dict[str, float]:
    """Values before any measurement."""
    return {constant.name: constant.prior for constant in constants}


def host_times(values: Mapping[str, float], engines: Sequence[str]) -> HostTimes:
    """Constants of some replicas, by the engine of each; an engine without its own takes the mean of the others.

    Parameters
    ----------
    values
        By name of the constant.
    engines
        Engine of each replica.
    """

    def of(name: str) -> Array:
        if name in values:
            return np.full(len(engines), values[name])
        own = {engine: values[f"{name}.{engine}"] for engine in ENGINES}
        mean = float(np.mean(list(own.values())))
        return np.array([own.get(engine, mean) for engine in engines])

    names = ("kernels", "collectives", "quantise", "iteration", "layer", "eager", "sequence", "prompt", "first_token")
    return HostTimes(**{f"{name}_R": of(name) for name in names})


def loads_with(values: Mapping[str, float], loads: Loads, rules: Sequence[str]) -> Loads:
    """Loads whose rule has a fitted constant, with that constant put in.

    Parameters
    ----------
    values
        By name of the constant: ``load.RULE.FIELD``.
    loads, rules
        B loads, and the name of each one's rule.
    """
    rule_B = np.asarray(rules)
    changed: dict[str, Array] = {}
    for name, value in values.items():
        if name.startswith("load."):
            _, rule, field = name.split(".")
            before_B = changed.get(f"{field}_B", getattr(loads, f"{field}_B"))
            changed[f"{field}_B"] = np.where(rule_B == rule, value, before_B)
    return replace(loads, **changed) if changed else loads  # type: ignore[arg-type]
