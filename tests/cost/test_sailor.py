"""Sailor's simulator as a referee: the prices it gives itself, and what must hold for any plan."""

from __future__ import annotations

import numpy as np
import pytest

from planner.cost.sailor import SailorReplica, SailorStage, sailor_memory, sailor_price
from planner.cost.sailor_tables import load_sailor_tables
from planner.errors import InputError

A100, V100 = "a100_sxm_40", "v100_sxm_16"
# What Sailor's simulator (MIT) says of its own plan for 32 A100-40 and 96 V100-16, and of a better one, to 6 digits.
OWN = (
    SailorStage((0, 13), (SailorReplica(V100, 4, 24), SailorReplica(A100, 1, 3))),
    SailorStage((13, 26), (SailorReplica(A100, 1, 27),)),
)
BETTER = (
    SailorStage((0, 9), (SailorReplica(V100, 4, 16),)),
    SailorStage((9, 13), (SailorReplica(V100, 2, 16),)),
    SailorStage((13, 26), (SailorReplica(A100, 2, 16),)),
)


@pytest.mark.parametrize(("stages", "seconds", "tolerance"), [(OWN, 5.883748912533, 1e-12), (BETTER, 4.96317, 1e-6)])
def test_reprices_the_plans_of_its_simulator(stages: tuple[SailorStage, ...], seconds: float, tolerance: float) -> None:
    price = sailor_price(load_sailor_tables("opt-350m"), stages, microbatch=2, batch=1024)
    assert price.seconds == pytest.approx(seconds, rel=tolerance)


def test_terms_add_up() -> None:
    price = sailor_price(load_sailor_tables("opt-350m"), BETTER, microbatch=2, batch=1024)
    steps = (price.microbatches - 1) * price.stage_S.max() + price.stage_S.sum()
    assert price.seconds == pytest.approx(steps + price.sync_S.max() + price.update_S.max())
    assert np.round(price.stage_S, 4).tolist() == [0.1332, 0.1244, 0.1329]  # as published with the plan


def test_both_plans_fit_their_cards() -> None:
    room = {A100: 42338615296, V100: 17179869184}
    for stages in (OWN, BETTER):
        held = sailor_memory(load_sailor_tables("opt-350m"), stages, microbatch=2)
        assert all(size <= room[device] for stage in held for (device, _), size in stage.items())


def test_more_replicas_mean_fewer_microbatches() -> None:
    tables = load_sailor_tables("opt-350m")

    def price(count: int) -> float:
        return sailor_price(
            tables, (SailorStage((0, 26), (SailorReplica(A100, 1, count),)),), microbatch=2, batch=1024
        ).seconds

    assert price(16) > price(32) > price(64)


def test_what_was_not_measured_is_refused() -> None:
    tables = load_sailor_tables("opt-350m")
    with pytest.raises(InputError, match="not measured on a100_sxm_40 with TP 8"):
        sailor_price(tables, (SailorStage((0, 26), (SailorReplica(A100, 8, 1),)),), microbatch=2, batch=64)
    with pytest.raises(InputError, match="stages of"):
        sailor_price(
            tables,
            (SailorStage((0, 13), (SailorReplica(A100, 1, 1),)), SailorStage((13, 26), (SailorReplica(A100, 1, 2),))),
            microbatch=2,
            batch=64,
        )
    with pytest.raises(InputError, match="no measured layers"):
        load_sailor_tables("gpt-5")
