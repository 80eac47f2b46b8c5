"""Prices of GPUs and of places in a pipeline, under which what all layers take is bounded before any stage is laid out.

Legend: W choice of prices, J kind of stage, K node class, M microbatch size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray

__all__ = ["paid_WJM"]

# Prices of a place in the pipeline that are tried.
_PLACES: Final = 9


def paid_WJM(whole_JM: Array, use_J: Array, at_J: IntArray, counts_K: IntArray, most: int) -> Array:
    """What a stage of each kind pays of all resources, GPUs by class and places in the pipeline, by some prices.

    Parameters
    ----------
    whole_JM
        What all layers take of something on a stage of each kind. Prices under which kinds are alike bound best:
        those of the linear program that spreads parts of layers, for some prices of a place.
    use_J, at_J
        GPUs of a stage of each kind, and their node class.
    counts_K, most
        GPUs of each node class, and places in the pipeline.
    """
    place_WM = np.linspace(0.0, 1.0, _PLACES)[:, None] / whole_JM.min(axis=0)
    worth_WJM = np.maximum(1.0 / whole_JM - place_WM[:, None, :], 0.0) / use_J[:, None]
    price_WKM = np.zeros((len(place_WM), len(counts_K), whole_JM.shape[1]))
    for k in np.unique(at_J):
        price_WKM[:, k] = worth_WJM[:, at_J == k].max(axis=1)
    have_WM = (price_WKM * counts_K[:, None]).sum(axis=1) + most * place_WM
    spent_WJM = price_WKM[:, at_J] * use_J[:, None] + place_WM[:, None]
    return np.asarray(spent_WJM / have_WM[:, None])
