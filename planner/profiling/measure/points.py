"""What is to be measured, one point at a time, and what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from planner.errors import PlannerError

__all__ = ["Point", "Results", "UnmeasurableError"]

Results = Mapping[str, float]
"""Result columns of the point's table by name."""


class UnmeasurableError(PlannerError):
    """The device cannot run this point: no memory for it, no kernel, no such collective."""


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a measured table before it is measured.

    Parameters
    ----------
    family
        Who measures it, a name in `planner.profiling.measure.families.FAMILIES`.
    table
        Kind of table, a name in `planner.profiling.tables.KINDS`.
    settings
        The row's setting columns.
    """

    family: str
    table: str
    settings: tuple[tuple[str, str | int], ...]

    @classmethod
    def of(cls, family: str, table: str, **settings: str | int) -> Point:
        """Make one from keywords."""
        return cls(family, table, tuple(settings.items()))

    @property
    def key(self) -> str:
        """What tells it from all others, the same in every run.

        Examples
        --------
        >>> Point.of("gemm", "gemm", dtype="bf16", m=1, n=2, k=3).key
        'gemm dtype=bf16 m=1 n=2 k=3'
        """
        return " ".join((self.table, *(f"{name}={value}" for name, value in self.settings)))

    def text(self, name: str) -> str:
        """Return a setting as text."""
        return str(dict(self.settings)[name])

    def whole(self, name: str) -> int:
        """Return a setting as a whole number."""
        return int(dict(self.settings)[name])

    def wholes(self, *names: str) -> Iterator[int]:
        """Return several."""
        return (self.whole(name) for name in names)
