"""The cheapest mix of GPUs for a workload of several request sizes: Melange's question, in whole GPUs.

Requests fall into buckets of size, each with a rate; a GPU of a type serves so many requests/s of a bucket. How many
GPUs of each type to rent, and which share of each bucket they serve, is an integer program with one whole number per
type: shares are continuous, as requests of one bucket are alike. Cutting a bucket into slices that each go to one type,
as the paper does, is the same program with fewer choices, and harder: `slices` asks for it.

Legend: U type of GPU (or of replica), W bucket.

References
----------
T. Griggs et al., "Melange: cost efficient large language model serving by exploiting GPU heterogeneity", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InfeasibleError
from planner.solvers.gscip import solve_gscip
from planner.solvers.program import IntegerProgram, IntegerSolver

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.cost._types import Array, IntArray

__all__ = ["Mix", "cheapest_mix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A mix of GPUs that serves every bucket.

    Parameters
    ----------
    count_U
        How many of each type.
    share_UW
        Share of each bucket that each type serves; every bucket's add up to 1.
    cost
        Price of all of them.
    bound
        No mix costs less.
    proven
        Whether the program was closed.
    """

    count_U: IntArray
    share_UW: Array
    cost: float
    bound: float
    proven: bool


def cheapest_mix(
    rate_W: Array,
    throughput_UW: Array,
    price_U: Array,
    most_U: IntArray | None = None,
    *,
    slices: int | None = None,
    time_limit: float = 10.0,
    seed: int = 0,
    solver: IntegerSolver = solve_gscip,
) -> Mix:
    """Find the mix of least cost.

    Parameters
    ----------
    rate_W
        Requests/s of each bucket.
    throughput_UW
        Requests/s of a bucket that one GPU of a type serves within the SLO; 0 where it cannot.
    price_U
        Price of one GPU of each type, in any unit.
    most_U
        How many there are of each type; None: as many as needed.
    slices
        Equal parts of each bucket, each served by one type, as in the paper; None: any shares.
    time_limit, seed, solver
        Of the integer program.

    Raises
    ------
    InfeasibleError
        If a bucket is served by no type, or all GPUs together do not do.

    Examples
    --------
    The example that the paper's authors released: a quarter of the A100 is left idle where no bucket may be divided.

    >>> rate, price = 30 * np.array([0.2, 0.1, 0.5, 0.2]), np.array([1.01, 3.67])
    >>> throughput = np.array([[2.0, 1, 5, 2], [20, 20, 40, 20]])
    >>> whole = cheapest_mix(rate, throughput, price, slices=1)
    >>> whole.count_U.tolist(), round(whole.cost, 2)
    ([3, 1], 6.7)
    >>> mix = cheapest_mix(rate, throughput, price)
    >>> mix.count_U.tolist(), round(mix.cost, 2)
    ([1, 1], 4.68)
    """
    rate, throughput, price = (np.asarray(a, dtype=float) for a in (rate_W, throughput_UW, price_U))
    types, buckets = throughput.shape
    unserved = np.flatnonzero((rate > 0) & (throughput <= 0).all(axis=0))
    if unserved.size:
        raise InfeasibleError(
            f"no type of GPU serves the requests of bucket {int(unserved[0])} within the SLO",
            hint="a type with more memory, or a looser SLO",
        )
    parts = 1 if slices is None else slices
    # load of a whole bucket on each type, in GPUs
    load_UW = np.where(throughput > 0, rate / np.where(throughput > 0, throughput, 1.0), 0.0)
    able_UW = (throughput > 0) | (rate == 0)
    enough_U = np.ceil(load_UW.sum(axis=1) + 1e-9)
    limit_U = enough_U if most_U is None else np.minimum(np.asarray(most_U, dtype=float), enough_U)
    pairs = np.argwhere(able_UW)
    rows: list[NDArray[np.float64]] = []
    for u in range(types):  # what is served fits the GPUs
        row = np.zeros(types + len(pairs))
        row[u] = -1.0
        mine = pairs[:, 0] == u
        row[types:][mine] = load_UW[u, pairs[mine, 1]] / parts
        rows.append(row)
    for w in range(buckets):  # every bucket is served whole
        row = np.zeros(types + len(pairs))
        row[types:][pairs[:, 1] == w] = -1.0
        rows.append(row)
    program = IntegerProgram(
        gain_X=np.concatenate([-price, np.zeros(len(pairs))]),
        rows_RX=np.stack(rows),
        limit_R=np.concatenate([np.zeros(types), np.full(buckets, -float(parts))]),
        most_X=np.concatenate([limit_U, np.full(len(pairs), float(parts))]),
        whole_X=(np.arange(types + len(pairs)) < types) | (slices is not None),
    )
    answer = solver(program, time_limit, seed)
    if answer is None:
        raise InfeasibleError(
            "all GPUs of the given types together do not serve the workload", hint="more GPUs, or a lower rate"
        )
    share_UW = np.zeros((types, buckets))
    share_UW[pairs[:, 0], pairs[:, 1]] = answer.x_X[types:]
    share_UW /= np.maximum(share_UW.sum(axis=0), 1e-300)
    return Mix(
        count_U=answer.x_X[:types].round().astype(int),
        share_UW=share_UW,
        cost=-answer.value,
        bound=max(0.0, -answer.bound),
        proven=answer.proven,
    )
