"""The certificate in words: what was reached, what cannot be beaten, and among which plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from planner.plan.certificate import ALONE
from planner.plan.figure import Figure
from planner.report.terminal import block, heading
from planner.report.words import format_figure

if TYPE_CHECKING:
    from planner.plan import Certificate

__all__ = ["certificate_report", "format_gap"]


def format_gap(certificate: Certificate) -> str:
    """Write the gap, and whether it closes the family.

    Examples
    --------
    >>> from planner.plan import certify
    >>> format_gap(certify(objective="goodput", sense="max", unit="requests/s", value=9.9, bound=10.0, proven=True,
    ...                    method="example", family="none"))
    '1 %, proven optimal'
    """
    percent = certificate.gap * 100
    text = "0 %" if percent == 0 else "under 0.01 %" if percent < 0.01 else f"{percent:.2g} %"
    return f"{text}, proven optimal" if certificate.proven else f"at most {text} from the best of the family"


def certificate_report(certificate: Certificate) -> RenderableType:
    """Tell the certificate."""

    def written(value: float) -> str:
        return format_figure(Figure(value=value, unit=certificate.unit, error=0.0, provenance="spec"))

    better, best = ("more", "greatest") if certificate.sense == "max" else ("less", "least")
    if certificate.family == ALONE:
        return Group(heading("Certificate"), block({"bound": f"none: {certificate.method}"}))
    rows = {
        "objective": f"{best} {certificate.objective.replace('_', ' ')}",
        "this plan": written(certificate.value),
        "bound": f"{written(certificate.bound)}; no plan of the family has {better}",
        "gap": format_gap(certificate),
        "method": certificate.method,
        "family": certificate.family,
    }
    return Group(heading("Certificate"), block(rows))
