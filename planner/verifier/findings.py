"""What a check has found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planner.plan import Certificate, Figure

__all__ = [
    "RELATIVE_TOLERANCE",
    "Finding",
    "check_arguments",
    "check_certificate",
    "check_layers",
    "compare_figures",
    "differs",
]

RELATIVE_TOLERANCE: Final = 1e-9

_CLOSED: Final = 1e-3  # a proof leaves no larger relative gap between value and bound

# What is to be large; everything else that a certificate may speak of is to be small.
_TO_MAXIMISE: Final = ("goodput", "weighted_goodput", "demand_scale", "tokens_per_second")


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


def check_certificate(certificate: Certificate, figures: Mapping[str, Figure]) -> list[Finding]:
    """Check what a certificate says of itself: value, direction and gap. Only a search could check the bound."""

    def finding(message: str) -> Finding:
        return Finding("certificate", "certificate", message)

    computed = figures.get(certificate.objective)
    if computed is None:
        return [finding(f"certifies {certificate.objective}, which nothing predicts")]
    findings = []
    if differs(certificate.value, computed.value):
        findings.append(
            finding(f"certifies {certificate.objective} {certificate.value!r}; recomputed {computed.value!r}")
        )
    sense = "max" if certificate.objective in _TO_MAXIMISE else "min"
    if certificate.sense != sense:
        findings.append(finding(f"{certificate.objective} is to be {sense}imised, not {certificate.sense}imised"))
    gap = abs(certificate.bound - certificate.value) / abs(certificate.bound) if certificate.bound else math.inf
    if certificate.bound == certificate.value:
        gap = 0.0
    if not math.isclose(certificate.gap, gap, rel_tol=1e-6, abs_tol=1e-9):
        findings.append(finding(f"states a gap of {certificate.gap!r}; value and bound are {gap!r} apart"))
    if certificate.proven and gap > _CLOSED:
        findings.append(finding(f"says proven with a gap of {gap!r}"))
    return findings


def check_arguments(
    where: str, stated: Mapping[str, int | float | str], computed: Mapping[str, int | float | str]
) -> list[Finding]:
    """Compare what the engine is told with what the plan means.

    Examples
    --------
    >>> [str(f) for f in check_arguments("r0", {"--tp": 7}, {"--tp": 4})]
    ['r0: --tp is told as 7; the plan means 4 [arguments]']
    """
    return [
        Finding("arguments", where, f"{name} is told as {stated.get(name)!r}; the plan means {computed.get(name)!r}")
        for name in dict.fromkeys((*computed, *stated))
        if stated.get(name) != computed.get(name)
    ]
