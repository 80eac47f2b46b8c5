"""Everything that can be measured, by the names of ``--only``, in the order in which it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from planner.errors import unknown_name
from planner.profiling.measure import attention, cipher, collectives, gemm, layer, memory
from planner.profiling.measure.points import Point, Results
from planner.profiling.measure.setup import Setup

__all__ = ["FAMILIES", "Family", "chosen"]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of thing to measure.

    Parameters
    ----------
    title
        For people.
    points
        What to measure on a device.
    measure
        How.
    """

    title: str
    points: Callable[[Setup], Iterator[Point]]
    measure: Callable[[Point, Setup], Results]


FAMILIES: Final[dict[str, Family]] = {
    "gemm": Family("matrix products", gemm.points, gemm.measure_gemm),
    "attention": Family("attention", attention.points, attention.measure_attention),
    "copy": Family("memory copies", memory.copy_points, memory.measure_copy),
    "elementwise": Family("norms and activations", memory.elementwise_points, memory.measure_elementwise),
    "launch": Family("start of a kernel", memory.launch_points, memory.measure_launch),
    "training_layer": Family("a layer in training", layer.training_points, layer.measure_training_layer),
    "serving_layer": Family("a layer in serving", layer.serving_points, layer.measure_serving_layer),
    "cipher": Family("AES-GCM on the host", cipher.points, cipher.measure_cipher),
    "collectives": Family("collectives", collectives.points, collectives.measure_collective),
}


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the families to measure, in the order of `FAMILIES`; all without names.

    Raises
    ------
    InputError
        If one is unknown.
    """
    for name in names:
        if name not in FAMILIES:
            raise unknown_name("measurement", name, FAMILIES)
    return tuple(name for name in FAMILIES if not names or name in names)
