"""Which experts a batch of tokens visits: how many weights are read, and how much falls to the busiest GPU.

A router sends each token to `top_k` different experts. Were all equally liked, a batch of m tokens would touch
``E (1 - (1 - k/E)^m)`` of E experts. Real routers like some more: the popularity of experts is taken as log-normal,
with the standard deviation `skew` of its logarithm. Experts lie on ``ep`` groups of GPUs without regard to that, and a
layer is done when its busiest group is: the largest of ep sums, each with the spread of its experts' popularity and
of the draw itself.

Legend: B batch of token counts, E expert.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from planner.cost._types import Array

__all__ = ["EXPERT_SKEW", "Routing"]

# Standard deviation of the logarithm of how popular an expert is. An estimate between even routing (0) and the power
# laws that measured tables call realistic (1.1 over 64 tokens, 1.9 over 1,024); 16 tokens then touch 84 of 256 experts,
# and the busiest of eight GPUs has 1.3 times the mean load of a large batch.
EXPERT_SKEW: Final = 1.0


@dataclass(frozen=True, slots=True)
class Routing:
    """Routing of one mixture-of-experts layer.

    Parameters
    ----------
    experts, top_k
        Routed experts, and how many of them a token visits.
    skew
        Standard deviation of the logarithm of an expert's popularity; 0: all are equally liked.

    Examples
    --------
    >>> even, skewed = Routing(256, 8, 0.0), Routing(256, 8, 1.0)
    >>> round(float(even.touched(16))), round(float(skewed.touched(16)))
    (102, 84)
    """

    experts: int
    top_k: int
    skew: float = EXPERT_SKEW

    def touched(self, tokens_B: ArrayLike) -> Array:
        """Experts that at least one of so many tokens visits, on average."""
        tokens_B = np.asarray(tokens_B, dtype=float)
        missed_E = np.log1p(-_chances(self.experts, self.top_k, self.skew))
        return np.asarray(-np.expm1(tokens_B[..., None] * missed_E).sum(axis=-1))

    def busiest(self, tokens_B: ArrayLike, groups: int) -> Array:
        """Load of the busiest of some equal groups of experts over the mean load; 1 for one group."""
        size_B: Array = np.maximum(np.asarray(tokens_B, dtype=float), 1e-9)
        if groups == 1:
            return np.ones_like(size_B)
        visits_B = size_B * self.top_k / groups
        chances_E = _chances(self.experts, self.top_k, self.skew)
        variation = float(chances_E.std() / chances_E.mean()) / math.sqrt(self.experts / groups)
        spread_B = np.sqrt((1.0 - 1.0 / groups) * (1.0 / visits_B + variation**2))
        # no group gets more than all of its experts from every token
        most = groups * min(1.0, self.experts / groups / self.top_k)
        return np.asarray(np.minimum(1.0 + _largest_of(groups) * spread_B, most))

    def on_busiest(self, tokens_B: ArrayLike, groups: int) -> tuple[Array, Array]:
        """Experts touched, and visits to them, on the busiest of some groups of GPUs."""
        tokens_B = np.asarray(tokens_B, dtype=float)
        ratio_B = self.busiest(tokens_B, groups)
        visits_B = ratio_B * tokens_B * self.top_k / groups
        touched_B = np.minimum(self.touched(ratio_B * tokens_B) / groups, visits_B)
        return touched_B, visits_B


@lru_cache(maxsize=64)
def _chances(experts: int, top_k: int, skew: float) -> Array:
    """Chance of each expert to be among the `top_k` of a token: popularity, none above 1, in all `top_k`."""
    if skew == 0.0:
        chances_E: Array = np.full(experts, top_k / experts)
    else:
        normal = NormalDist()
        popularity_E = np.exp([skew * normal.inv_cdf((e + 0.5) / experts) for e in range(experts)])
        chances_E = popularity_E * top_k / popularity_E.sum()
        for _ in range(50):  # what is cut off at 1 goes to the others
            over = chances_E.sum() - np.minimum(chances_E, 1.0).sum()
            if over <= 1e-12:
                break
            free = chances_E < 1.0
            chances_E = np.minimum(chances_E, 1.0)
            chances_E[free] *= 1.0 + over / chances_E[free].sum()
    chances_E = np.minimum(chances_E, 1.0 - 1e-12)
    chances_E.setflags(write=False)
    return chances_E


@lru_cache(maxsize=64)
def _largest_of(number: int) -> float:
    """Expected largest of some standard normal draws, by Blom's approximation."""
    return NormalDist().inv_cdf((number - 0.375) / (number + 0.25))
