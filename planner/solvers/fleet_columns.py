"""What a master program of several clients and roles is given: templates, demands, links. Arrays only.

Legend: T template, A client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from planner.solvers.master import MasterProblem

__all__ = ["DECODE", "PREFILL", "WHOLE", "FleetColumns", "FleetDemand", "FleetLink"]

WHOLE: Final = 0
PREFILL: Final = 1
DECODE: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLink:
    """A link that what passes from some places to some others shares, and the bytes/s that it carries."""

    pairings: frozenset[tuple[int, int]]
    capacity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetDemand:
    """What is asked for.

    Parameters
    ----------
    objective
        ``"scale"``: the greatest factor by which all demands can be multiplied; ``"goodput"``: the greatest weighted
        sum of what is served, of no client more than its demand; ``"cost"``: the least cost that serves the demands.
    demand_A
        Of each client, > 0; infinite where as much as possible is asked for (``"goodput"`` only).
    weight_A
        What one unit served is worth, for ``"goodput"``.
    bytes_A
        That pass from place to place with one unit of each client.
    links
        Links that may be too slow for all that could flow.
    """

    objective: Literal["scale", "goodput", "cost"]
    demand_A: NDArray[np.float64]
    weight_A: NDArray[np.float64]
    bytes_A: NDArray[np.float64]
    links: tuple[FleetLink, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetColumns:
    """Templates of all clients.

    Parameters
    ----------
    room
        What they occupy and cost; its values are not read.
    client_T, role_T
        Whose they are, and what they do: `WHOLE`, `PREFILL`, `DECODE`.
    from_T
        Place where a first part is done; -1 of others.
    to_T
        Of a first part which of `reach` it may be handed on to, of a taking over its place; -1 of others.
    reach
        Places.
    """

    room: MasterProblem
    client_T: NDArray[np.int64]
    role_T: NDArray[np.int64]
    from_T: NDArray[np.int64]
    to_T: NDArray[np.int64]
    reach: tuple[tuple[int, ...], ...] = ()
