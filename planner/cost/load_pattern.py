"""How requests come: what a measured TTFT means depends on it, and so does what an SLO asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from planner.errors import InputError

__all__ = ["LoadPattern"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPattern:
    """How requests come, which is part of what a measured TTFT means.

    Parameters
    ----------
    arrival
        ``"closed"``: a fixed number of clients. ``"burst"``: all at once, and nothing after them; a closed loop in
        step. ``"open"``: at a rate, whatever the server does; `planner.cost.replica.ReplicaPricer.at_rate` prices it.
    synchrony
        0 where the phases of the requests are spread evenly, 1 where they move in waves.
    requests
        Requests in all, where the run fills and drains within what is measured; None where it is long.
    slot_wait
        Wait before a request is taken up, in units of the mean time between two requests that end: so many of the
        clients are waiting for a slot at any time.
    prompt_wait
        The same in units of the time that one prompt costs the engine; shared out by waves, which leave ``1 - s``.
    stream_interval
        Tokens after the first that are held back and streamed together with it.
    slot_limit
        Most sequences that the server was told to run at once; None: the engine's default.
    prefix_share
        Share of each prompt that is in the prefix cache: it is seen, but not computed.
    offline
        Requests lie ready as tokens in the engine's own process: no HTTP, no tokenising, no admission one by one.

    Examples
    --------
    >>> LoadPattern(arrival="burst").waves
    1.0
    """

    arrival: Literal["closed", "burst", "open"] = "closed"
    synchrony: float = 0.0
    requests: int | None = None
    slot_wait: float = 0.0
    prompt_wait: float = 0.0
    stream_interval: float = 0.0
    slot_limit: int | None = None
    prefix_share: float = 0.0
    offline: bool = False

    def __post_init__(self) -> None:
        """Check what would give numbers without meaning."""
        if not 0.0 <= self.synchrony <= 1.0:
            raise InputError(f"synchrony {self.synchrony:g}", expected="between 0 (spread) and 1 (in waves)")
        if not 0.0 <= self.prefix_share < 1.0:
            raise InputError(f"prefix share {self.prefix_share:g}", expected="from 0 to below 1")
        for name in ("slot_wait", "prompt_wait", "stream_interval"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} {value:g}", expected="0 or more")
        for name in ("requests", "slot_limit"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name} {number}", expected="1 or more")

    @property
    def waves(self) -> float:
        """Synchrony, which is 1 where all come at once."""
        return 1.0 if self.arrival == "burst" else self.synchrony
