"""UELLM's placement: against enumeration, the subset program, and CP-SAT."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from planner.partition.device_chain import chain_devices, chain_value
from tests.partition.chain_oracles import chains_by_enumeration, chains_by_subsets, latency_by_cp_sat

OBJECTIVES = ("latency", "bottleneck")


def random_instance(seed: int, devices: int, layers: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Classes of devices with layers that differ, memory that some intervals exceed, and hops."""
    rng = np.random.default_rng(seed)
    sizes = rng.multinomial(devices, np.ones(3) / 3)
    sizes = sizes[sizes > 0]
    D = len(sizes)
    before_DN = np.concatenate([np.zeros((D, 1)), rng.uniform(0.2, 2.0, (D, layers)).cumsum(axis=1)], axis=1)
    time_DNN = before_DN[:, None, :] - before_DN[:, :, None]
    time_DNN += rng.uniform(0, 0.5, (D, 1, 1))
    need_N = np.concatenate([[0.0], rng.uniform(0.5, 1.5, layers).cumsum()])
    room_D = rng.uniform(0.2, 1.3, D) * need_N[-1]
    time_DNN = np.where(need_N - need_N[:, None] <= room_D[:, None, None], time_DNN, np.inf)
    hop_DD = rng.uniform(0.0, 1.0, (D, D))
    device_class = [d for d, size in enumerate(sizes) for _ in range(size)]
    return time_DNN, hop_DD, device_class


@pytest.mark.parametrize("block", range(8))
def test_equals_enumeration(block: int) -> None:
    """200 instances, for both objectives: every number of devices."""
    feasible = 0
    for seed in range(block * 25, block * 25 + 25):
        time_DNN, hop_DD, device_class = random_instance(seed, devices=2 + seed % 5, layers=3 + seed % 5)
        count_D = np.bincount(device_class)
        for objective in OBJECTIVES:
            found = chain_devices(time_DNN, hop_DD, count_D, objective).by_devices
            best = chains_by_enumeration(time_DNN, hop_DD, device_class, objective)
            reached = [math.inf if one is None else one.value for one in found]
            reached += [math.inf] * (len(best) - len(reached))
            assert reached == pytest.approx(best)
            for one in found:
                if one is not None:
                    feasible += 1
                    assert one.value == pytest.approx(chain_value(time_DNN, hop_DD, one, objective))
                    assert sum(one.layers) == time_DNN.shape[1] - 1
                    assert min(one.layers) >= 1
                    assert (np.bincount(one.classes, minlength=len(count_D)) <= count_D).all()
    assert feasible > 50


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_count_vectors_equal_subsets(seed: int, objective: str) -> None:
    time_DNN, hop_DD, device_class = random_instance(1000 + seed, devices=7, layers=6)
    found = chain_devices(time_DNN, hop_DD, np.bincount(device_class), objective)  # type: ignore[arg-type]
    best = chains_by_subsets(time_DNN, hop_DD, device_class, objective)
    reached = [math.inf if one is None else one.value for one in found.by_devices]
    assert reached + [math.inf] * (len(best) - len(reached)) == pytest.approx(best)
    # and the same program with a class of its own for each device
    apart = chain_devices(
        time_DNN[device_class],
        hop_DD[np.ix_(device_class, device_class)],
        np.ones(len(device_class), dtype=int),
        objective,  # type: ignore[arg-type]
    )
    assert [one and one.value for one in apart.by_devices] == pytest.approx(
        [one and one.value for one in found.by_devices]
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equals_cp_sat_on_larger_ones(seed: int, objective: str) -> None:
    rng = np.random.default_rng(seed)
    layers, sizes = 24, [3, 4, 3]
    device_class = [d for d, size in enumerate(sizes) for _ in range(size)]
    layer_D, most_D = rng.integers(5, 30, 3), rng.integers(3, 9, 3)
    hop_DD = rng.integers(1, 40, (3, 3))
    weight = int(rng.integers(0, 60))
    span_NN = np.arange(layers + 1) - np.arange(layers + 1)[:, None]
    time_DNN = np.where(span_NN <= most_D[:, None, None], span_NN * layer_D[:, None, None].astype(float), np.inf)
    chain = chain_devices(time_DNN, hop_DD.astype(float), np.array(sizes), objective).pick(1.0, weight)  # type: ignore[arg-type]
    assert chain is not None
    best = latency_by_cp_sat(layer_D, most_D, hop_DD, device_class, layers, device_weight=weight, objective=objective)
    assert chain.value + weight * len(chain.classes) == pytest.approx(best)


def test_weights_lead_from_the_fewest_devices_to_the_least_latency() -> None:
    """HE takes the fewest devices, LR the least latency, and the weight moves between the two without going back."""
    for seed in range(20):
        time_DNN, hop_DD, device_class = random_instance(seed, devices=6, layers=8)
        chains = chain_devices(time_DNN, hop_DD, np.bincount(device_class), "bottleneck")
        fewest, fastest = chains.pick(0.0, 1.0), chains.pick(1.0, 0.0)
        if fewest is None or fastest is None:
            continue
        assert len(fewest.classes) == min(len(one.classes) for one in chains.by_devices if one)
        assert fastest.value == min(one.value for one in chains.by_devices if one)
        used = [len(chain.classes) for w in (0.0, 0.1, 1.0, 10.0, 1e6) if (chain := chains.pick(1.0, w))]
        assert used == sorted(used, reverse=True)
        assert used[-1] == len(fewest.classes)


def test_thirty_two_devices_in_four_classes() -> None:
    rng = np.random.default_rng(5)
    before = np.concatenate([np.zeros((4, 1)), rng.uniform(0.5, 1.5, (4, 80)).cumsum(axis=1)], axis=1)
    time_DNN = before[:, None, :] - before[:, :, None]
    span = np.arange(81) - np.arange(81)[:, None]
    time_DNN = np.where(span <= np.array([3, 3, 4, 2])[:, None, None], time_DNN, np.inf)
    start = time.perf_counter()
    chains = chain_devices(time_DNN, rng.uniform(0, 0.3, (4, 4)), np.full(4, 8), "latency")
    seconds = time.perf_counter() - start
    best = chains.pick()
    assert best is not None
    assert len(best.classes) > 24
    assert seconds < 30


def test_too_many_states_are_refused() -> None:
    with pytest.raises(ValueError, match="most_devices"):
        chain_devices(np.ones((8, 65, 65)), np.ones((8, 8)), np.full(8, 8), "latency")
