"""What a check has found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planner.plan import Figure

__all__ = ["RELATIVE_TOLERANCE", "Finding", "check_layers", "compare_figures", "differs"]

RELATIVE_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a plan.

    Parameters
    ----------
    code
        Kind of fault, for programs: ``"layer-missing"``.
    where
        Place in the plan: ``"r0 stage 1"``.
    message
        What is wrong, with what was found and what should be.
    """

    code: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.code}]"


def check_layers(where: str, ranges: list[tuple[int, int]], num_layers: int) -> list[Finding]:
    """Check that ranges of layers, in pipeline order, cover a model: each layer once, no stage empty.

    Examples
    --------
    >>> [f.code for f in check_layers("r0", [(0, 3), (2, 4)], 5)]
    ['layer-twice', 'layer-missing']
    """
    findings = []
    expected = 0
    for s, (first, end) in enumerate(ranges):
        if end <= first:
            findings.append(Finding("stage-empty", f"{where} stage {s}", f"holds no layer: [{first}, {end})"))
            continue
        if first > expected:
            findings.append(_gap(where, expected, first))
        elif first < expected:
            findings.append(
                Finding(
                    "layer-twice", f"{where} stage {s}", f"layers {first} to {min(end, expected) - 1} are placed twice"
                )
            )
        expected = max(expected, end)
    if expected < num_layers:
        findings.append(_gap(where, expected, num_layers))
    elif expected > num_layers:
        findings.append(
            Finding("layer-unknown", where, f"layers up to {expected - 1} of a model that has {num_layers}")
        )
    return findings


def _gap(where: str, first: int, end: int) -> Finding:
    what = f"layer {first} is" if end == first + 1 else f"layers {first} to {end - 1} are"
    return Finding("layer-missing", where, f"{what} nowhere")


def differs(stated: float, computed: float) -> bool:
    """Whether a stated figure is not the one that the cost model computes."""
    return not math.isclose(stated, computed, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12)


def compare_figures(where: str, stated: Mapping[str, Figure], computed: Mapping[str, Figure]) -> list[Finding]:
    """Compare stated with recomputed figures: values, units, errors and provenance."""
    findings = []
    for name in dict.fromkeys((*computed, *stated)):
        if name not in stated:
            findings.append(Finding("figure-missing", where, f"{name} is not stated; it is {computed[name].value!r}"))
        elif name not in computed:
            findings.append(Finding("figure-unknown", where, f"{name} is stated, but nothing predicts it"))
        else:
            said, is_ = stated[name], computed[name]
            if differs(said.value, is_.value):
                findings.append(
                    Finding("figure-changed", where, f"{name} is stated as {said.value!r}; recomputed {is_.value!r}")
                )
            elif differs(said.error, is_.error) or (said.unit, said.provenance) != (is_.unit, is_.provenance):
                findings.append(
                    Finding(
                        "figure-changed",
                        where,
                        f"{name} is stated as {said.unit}, ±{said.error!r}, {said.provenance};"
                        f" recomputed {is_.unit}, ±{is_.error!r}, {is_.provenance}",
                    )
                )
    return findings
