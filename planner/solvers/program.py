"""A linear program with whole and continuous unknowns, and what a solver answers: arrays only.

Every solver has a file of its own that imports it inside the function: `gscip`, `highs`, `cbc`. They answer the same
program alike, which the tests hold them to.

Legend: X unknown, R row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["IntegerProgram", "IntegerSolution", "IntegerSolver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerProgram:
    """Maximise ``gain @ x`` subject to ``rows @ x <= limits`` and ``0 <= x <= most``.

    Parameters
    ----------
    gain_X
        What one of each unknown is worth.
    rows_RX, limit_R
        The constraints.
    most_X
        Largest value of each; may be infinite.
    whole_X
        Which must be whole numbers.
    close
        Relative distance of value and bound at which a solver may stop; 0: only when it has closed the program.
    """

    gain_X: NDArray[np.float64]
    rows_RX: NDArray[np.float64]
    limit_R: NDArray[np.float64]
    most_X: NDArray[np.float64]
    whole_X: NDArray[np.bool_]
    close: float = 0.0

    def take(self, columns: NDArray[np.int64]) -> IntegerProgram:
        """Return the program over some of the unknowns; the others are 0."""
        return IntegerProgram(
            gain_X=self.gain_X[columns],
            rows_RX=self.rows_RX[:, columns],
            limit_R=self.limit_R,
            most_X=self.most_X[columns],
            whole_X=self.whole_X[columns],
            close=self.close,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerSolution:
    """A choice, and how good it provably is.

    Parameters
    ----------
    x_X
        The choice; whole where asked.
    value
        ``gain @ x``.
    bound
        No choice is worth more.
    proven
        Whether the solver closed the program, or came as close as that asks for.
    """

    x_X: NDArray[np.float64]
    value: float
    bound: float
    proven: bool

    @classmethod
    def of(cls, program: IntegerProgram, x_X: NDArray[np.float64], *, bound: float, proven: bool) -> IntegerSolution:
        """Round what must be whole, and never claim a bound below the value."""
        x_X = np.where(program.whole_X, np.round(x_X), np.maximum(x_X, 0.0))
        value = float(program.gain_X @ x_X)
        return cls(x_X=x_X, value=value, bound=max(bound, value), proven=proven)


# Solves a program within some seconds, with a seed. None if it has no solution; TimeLimitError if none was found.
IntegerSolver = Callable[[IntegerProgram, float, int], IntegerSolution | None]
