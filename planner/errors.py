"""Everything that can go wrong, as one tree.

PlannerError                exit code 1
├── InputError              exit code 4   a file, field or value is not what it must be
├── InfeasibleError         exit code 3   no plan exists; says which constraint binds
├── UnsupportedError        exit code 3   a plan exists that the chosen engine cannot run
├── TimeLimitError          exit code 5   the time limit passed before any plan was found
└── SolverError             exit code 1   a solver failed or contradicted itself
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "InfeasibleError",
    "InputError",
    "PlannerError",
    "SolverError",
    "TimeLimitError",
    "UnsupportedError",
    "unknown_name",
]


class PlannerError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class InputError(PlannerError):
    """A file, a field or a value is not what it must be.

    Parameters
    ----------
    what
        What is wrong, with the value that was found.
    where
        The file (and line) or the option that holds it.
    field
        The field inside it, dotted: ``nodes.0.gpus_per_node``.
    expected
        What would have been right.
    hint
        What to try.
    """

    exit_code = 4

    def __init__(
        self,
        what: str,
        *,
        where: str | Path | None = None,
        field: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.where, self.field, self.expected, self.hint = what, where, field, expected, hint
        place = ": ".join(str(part) for part in (where, field) if part is not None)
        lines = [f"{place}: {what}" if place else what]
        if expected is not None:
            lines.append(f"expected: {expected}")
        if hint is not None:
            lines.append(f"try: {hint}")
        super().__init__("\n".join(lines))


class InfeasibleError(PlannerError):
    """No plan satisfies the constraints.

    Parameters
    ----------
    what
        The binding constraint with its numbers: needed and had.
    hint
        The smallest change that would help.
    """

    exit_code = 3

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        self.what, self.hint = what, hint
        super().__init__(what if hint is None else f"{what}\ntry: {hint}")


class UnsupportedError(PlannerError):
    """The plan is sound, but the engine has no way to be told it."""

    exit_code = 3


class TimeLimitError(PlannerError):
    """The time limit passed before any plan was found."""

    exit_code = 5


class SolverError(PlannerError):
    """A solver failed, or its answer did not survive the check that follows it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Error for a name that is not in a registry: lists the known ones, closest first.

    Parameters
    ----------
    kind
        What the name stands for: ``"GPU"``, ``"engine"``.
    name
        The name that was given.
    known
        All names that would have been accepted.

    Examples
    --------
    >>> print(unknown_name("engine", "vlm", ["vllm", "sglang"]))
    unknown engine 'vlm'
    expected: one of sglang, vllm
    try: vllm
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    return InputError(
        f"unknown {kind} {name!r}",
        expected=f"one of {', '.join(names)}",
        hint=" or ".join(close) if close else None,
    )
