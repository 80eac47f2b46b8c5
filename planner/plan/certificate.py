"""How far a plan can be from the best one, at most, and among which plans."""

from __future__ import annotations

import math
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ALONE", "Certificate", "certify"]

# The family of a plan that was given and not searched for.
ALONE: Final = "this configuration alone"


class Certificate(BaseModel):
    """A proven bound on the objective over a declared family of plans."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: str = Field(description="What was optimised: 'goodput', 'cost_per_hour', 'iteration_time' …")
    sense: Literal["max", "min"]
    unit: str
    value: float = Field(description="What this plan reaches, priced with its real links.")
    bound: float = Field(description="What no plan of the family can beat.")
    gap: float = Field(ge=0, description="|bound - value| / |bound|.")
    proven: bool = Field(description="Whether the search closed its family: the bound is the family's optimum.")
    method: str = Field(description="How the bound was found.")
    family: str = Field(description="The plans that the bound covers, in words.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        slack = 1e-9 * max(abs(self.bound), abs(self.value), 1e-300)
        beaten = self.value - self.bound if self.sense == "max" else self.bound - self.value
        if beaten > slack:
            raise ValueError(f"value {self.value!r} beats its own bound {self.bound!r}")
        return self


def certify(
    *,
    objective: str,
    sense: Literal["max", "min"],
    unit: str,
    value: float,
    bound: float,
    proven: bool,
    method: str,
    family: str,
) -> Certificate:
    """Make a certificate; the gap follows from value and bound.

    Examples
    --------
    >>> certify(objective="goodput", sense="max", unit="requests/s", value=9.9, bound=10.0, proven=True,
    ...         method="example", family="none").gap
    0.01
    """
    # Rounding in the last digits must not make a plan look better than its bound.
    value_beats = value > bound if sense == "max" else value < bound
    if value_beats and math.isclose(value, bound, rel_tol=1e-9):
        bound = value
    gap = abs(bound - value) / abs(bound) if bound else (0.0 if value == bound else math.inf)
    return Certificate(
        objective=objective,
        sense=sense,
        unit=unit,
        value=value,
        bound=bound,
        gap=round(gap, 12),
        proven=proven,
        method=method,
        family=family,
    )
