"""From tables of routed experts to surfaces: the share of the roofline that an engine's operator reaches.

The tables say how tokens were drawn, not which experts they met. ``balanced`` hands them out in turn; ``power_law_A``
draws the load of each expert from a power law of exponent A between 1 and 0.8 of the tokens (0.01 and 2 where there
are fewer visits than experts) and measures the busiest of the expert-parallel groups. The loads are drawn again here,
a number of times, and the mean number of experts touched and of visits on the busiest group is what the roofline of a
row is computed from.

Legend: R row of the table, E expert, N shape of experts, A size, P knots of a shape's own factors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cluster.measured import SurfaceFacts
from planner.cluster.surface import Surface
from planner.cost.device import compute_dtype
from planner.cost.experts import expert_roofline, shape_key
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.profiling.fit.smoothing import Axes, left_out, smooth, within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.cluster import DeviceProfile
    from planner.cost._types import Array
    from planner.profiling.tables import MeasuredTable

__all__ = ["drawn_loads", "fit_experts", "rooflines_R"]

# Formats of the tables: what is stored, and what is multiplied.
_STORED: Final[dict[str, tuple[Dtype, Dtype]]] = {
    "bf16": ("bf16", "bf16"),
    "fp8": ("fp8", "fp8"),
    "fp8_block": ("fp8", "fp8"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "mxfp4": ("mxfp4", "bf16"),
    "mxfp4_fp8": ("mxfp4", "fp8"),
    "int4": ("int4", "bf16"),
}
_AXES: Final[Axes] = (
    ("tokens_per_expert", (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)),
    ("width", (64, 128, 256, 512, 1024, 2048, 8192)),
    ("work", (1e-6, 4e-6, 16e-6, 64e-6, 256e-6, 1e-3, 8e-3)),
    ("groups", (1, 2, 8, 64)),
)
_PLACES: Final[Axes] = (
    ("tokens_per_expert", (1, 2, 8, 32, 128, 1024)),
    ("width", (96, 256, 768, 2048)),
    ("groups", (1, 2, 8, 64)),
)
_NARROWEST: Final = 32  # experts cut into thinner slices than this nobody runs
_ENOUGH: Final = 200  # rows below which a format is not fitted
_DRAWS: Final = 12
_PULL: Final = 3.0  # rows' worth of pull of a shape's correction towards none


@lru_cache(maxsize=65536)
def drawn_loads(tokens: int, experts: int, top_k: int, groups: int, distribution: str) -> tuple[float, float]:
    """Experts touched, and visits, on the busiest of some groups, as a table's load was drawn.

    Examples
    --------
    >>> drawn_loads(16, 256, 8, 8, "balanced")
    (16.0, 16.0)
    """
    visits = tokens * top_k
    if distribution == "balanced":
        return max(min(experts, visits) / groups, 1.0), max(visits / groups, 1.0)
    exponent = 1.0 - float(distribution.rsplit("_", 1)[1])
    low, high = (1.0, 0.8 * tokens) if visits > experts else (0.01, 2.0)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(_DRAWS):
        uniform_E = generator.random(experts)
        weight_E = ((high**exponent - low**exponent) * uniform_E + low**exponent) ** (1.0 / exponent)
        load_E = _rounded(weight_E / weight_E.sum() * visits)
        by_group = load_E.reshape(groups, -1)
        busiest = by_group[by_group.sum(axis=1).argmax()]
        found.append((np.count_nonzero(busiest), busiest.sum()))
    touched, most = np.mean(found, axis=0)
    return max(float(touched), 1.0), max(float(most), 1.0)


def _rounded(load_E: Array) -> Array:
    """Whole numbers with the same sum: the largest remainders go up."""
    floor_E = np.floor(load_E)
    short = round(float(load_E.sum() - floor_E.sum()))
    floor_E[np.argsort(floor_E - load_E)[:short]] += 1
    return floor_E


def rooflines_R(table: MeasuredTable, device: DeviceProfile) -> tuple[Array, Array]:
    """Tokens per touched expert, and roofline seconds, of each row."""
    columns = (table[name].tolist() for name in ("tokens", "experts", "top_k", "ep", "distribution"))
    loads_R2 = np.array([drawn_loads(*row) for row in zip(*columns, strict=True)])
    touched_R, visits_R = loads_R2.T
    width_R = table["intermediate"] / table["tp"]
    work_R = np.empty(len(table))
    for name in np.unique(table["dtype"]):
        mine_R = table["dtype"] == name
        stored, multiplied = _STORED[str(name)]
        flops = device.flops[compute_dtype(device, multiplied)].value
        work_R[mine_R] = [
            expert_roofline(t, v, h, w, DTYPE_BYTES[stored], flops, device.memory_bandwidth.value)
            for t, v, h, w in zip(
                touched_R[mine_R], visits_R[mine_R], table["hidden"][mine_R], width_R[mine_R], strict=True
            )
        ]
    return visits_R / touched_R, work_R


def fit_experts(table: MeasuredTable, device: DeviceProfile) -> dict[str, tuple[Surface, SurfaceFacts]]:
    """Fit the experts of one engine.

    Parameters
    ----------
    table
        A ``moe`` table.
    device
        The GPU it was measured on.

    Returns
    -------
    dict
        ``<format>/<engine>``: the surface of all shapes, with the error on shapes left out of the fit; and
        ``<format>/<engine>/shapes``: the factors of each shape on it, with the error that is left on degrees of
        parallelism left out.
    """
    engine = table.origin.software.split()[0]
    each_R, work_R = rooflines_R(table, device)
    width_R = table["intermediate"] / table["tp"]
    fitted: dict[str, tuple[Surface, SurfaceFacts]] = {}
    for name in sorted(set(table["dtype"].tolist())):
        mine = np.flatnonzero((table["dtype"] == name) & (width_R >= _NARROWEST))
        if len(mine) < _ENOUGH:
            continue
        points_RA = np.stack([each_R, width_R, work_R, table["ep"]], axis=1)[mine]
        share_R = np.log(work_R[mine] / table["seconds"][mine])
        shapes_R = _shapes(table, mine)
        split_R = table["tp"][mine] * 1000 + table["ep"][mine]
        surface, error, median = _general(points_RA, share_R, shapes_R)
        facts = SurfaceFacts(
            rows=len(mine),
            error=error,
            error_median=median,
            error_basis="shapes of experts (models) left out whole, five folds",
            software=table.origin.software,
        )
        fitted[f"{name}/{engine}"] = surface, facts
        left_R = share_R - np.log(surface.at(*points_RA.T))
        corrections, named = _by_shape(points_RA[:, (0, 1, 3)], left_R, shapes_R, split_R)
        fitted[f"{name}/{engine}/shapes"] = (
            corrections,
            facts.model_copy(
                update={
                    "error": float(np.mean(list(named.values()))),
                    "error_median": float(np.median(list(named.values()))),
                    "error_basis": "degrees of parallelism left out one by one; median of each shape",
                    "named": named,
                }
            ),
        )
    return fitted


def _shapes(table: MeasuredTable, rows: NDArray[Any]) -> NDArray[Any]:
    names = ("hidden", "intermediate", "top_k", "experts")
    return np.array([shape_key(*row) for row in zip(*(table[n][rows].tolist() for n in names), strict=True)])


def _general(points_RA: Array, share_R: Array, shapes_R: NDArray[Any]) -> tuple[Surface, float, float]:
    """The surface of all shapes, each counting alike; mean and median error on shapes left out."""
    _, shape_R, number_N = np.unique(shapes_R, return_inverse=True, return_counts=True)
    weights_R = np.sqrt(number_N.min() / number_N[shape_R])

    def predictor(rows: NDArray[Any]) -> Any:
        part = within(smooth(_AXES, points_RA[rows], share_R[rows], weights_R[rows]), share_R[rows])
        return lambda others: np.log(part.at(*points_RA[others].T))

    surface = within(smooth(_AXES, points_RA, share_R, weights_R), share_R)
    if len(number_N) == 1:
        miss_R = np.abs(np.expm1(share_R - np.log(surface.at(*points_RA.T))))
    else:
        miss_R = np.abs(np.expm1(share_R - left_out(predictor, shapes_R)))
    return surface, float(miss_R.mean()), float(np.median(miss_R))


def _by_shape(
    places_RA: Array, left_R: Array, shapes_R: NDArray[Any], split_R: NDArray[Any]
) -> tuple[Surface, dict[str, float]]:
    """Factors of each shape on the surface, pulled towards 1; error with each split left out."""
    shapes = sorted(set(shapes_R.tolist()))
    factor_NP = np.zeros((len(shapes), *(len(knots) for _, knots in _PLACES)))
    named: dict[str, float] = {}
    for n, shape in enumerate(shapes):
        mine = np.flatnonzero(shapes_R == shape)
        near_RP = _nearness(places_RA[mine])
        above_RP = near_RP * left_R[mine][:, None, None, None]
        sums = near_RP.sum(axis=0), above_RP.sum(axis=0)
        factor_NP[n] = sums[1] / (sums[0] + _PULL)
        missed = []
        for split in np.unique(split_R[mine]):
            out_R = split_R[mine] == split
            rest = (total - part[out_R].sum(axis=0) for total, part in zip(sums, (near_RP, above_RP), strict=True))
            weight_P, above_P = rest
            factors = Surface(_grid(_PLACES), above_P / (weight_P + _PULL))
            missed.append(np.abs(np.expm1(left_R[mine][out_R] - np.log(factors.at(*places_RA[mine][out_R].T)))))
        named[shape] = round(float(np.median(np.concatenate(missed))), 4)
    axes = (("shape", np.arange(1, len(shapes) + 1, dtype=float)), *_grid(_PLACES))
    return Surface(axes, factor_NP), named


def _grid(axes: Axes) -> tuple[tuple[str, Array], ...]:
    return tuple((name, np.asarray(knots, dtype=float)) for name, knots in axes)


def _nearness(places_RA: Array) -> Array:
    """How much each row says about each knot: its share in the interpolation there, shape (R, P)."""
    near_RP = np.ones((len(places_RA), 1, 1, 1))
    for at, (_, knots) in enumerate(_PLACES):
        place_R = np.interp(np.log(places_RA[:, at]), np.log(knots), np.arange(len(knots)))
        share_RK = np.maximum(1.0 - np.abs(place_R[:, None] - np.arange(len(knots))), 0.0)
        near_RP = near_RP * np.expand_dims(share_RK, axis=[a + 1 for a in range(len(_PLACES)) if a != at])
    return near_RP
