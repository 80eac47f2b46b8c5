"""A predicted number that says where it comes from and how wrong it may be."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Figure", "Provenance", "weakest"]

Provenance = Literal["measured", "fitted", "spec"]

# From the best founded to the least; a figure made of several inherits the weakest of its parts.
_ORDER: tuple[Provenance, ...] = ("measured", "fitted", "spec")


class Figure(BaseModel):
    """One predicted value.

    ``error`` is relative and one-sided: the truth is expected within ``value * (1 ± error)``. ``provenance`` is
    the weakest of what went in: ``measured`` tables, ``fitted`` constants, or the ``spec`` sheet with default
    efficiencies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float = Field(description="In `unit`, SI unless the unit says otherwise.")
    unit: str = Field(description="s, bytes, requests/s, tokens/s, USD/Mtoken, fraction …")
    error: float = Field(ge=0, description="Relative error band: the truth is expected within value * (1 ± error).")
    provenance: Provenance


def weakest(*provenances: Provenance) -> Provenance:
    """Provenance of something made of several parts.

    Examples
    --------
    >>> weakest("measured", "spec", "fitted")
    'spec'
    """
    return max(provenances, key=_ORDER.index)
