"""Covers by so many pieces against going through all of them."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.solvers.covers import least_prices, list_covers


@st.composite
def instances(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Lengths E, J and prices J; number of pieces, and the need."""
    kinds = draw(st.integers(1, 4))
    lengths = [[draw(st.integers(0, 6)) for _ in range(kinds)] for _ in range(draw(st.integers(1, 3)))]
    prices = [draw(st.integers(0, 20)) / 7 for _ in range(kinds)]
    return np.array(lengths), np.array(prices), draw(st.integers(1, 5)), draw(st.integers(1, 14))


def all_ways(length_J: np.ndarray, price_J: np.ndarray, pieces: int, need: int) -> dict[tuple[int, ...], float]:
    """Every way that covers the need, with its price."""
    ways = {}
    for chosen in combinations_with_replacement(np.flatnonzero(length_J > 0).tolist(), pieces):
        if sum(length_J[j] for j in chosen) >= need:
            counts = tuple(chosen.count(j) for j in range(len(length_J)))
            ways[counts] = float(sum(price_J[j] for j in chosen))
    return ways


@settings(max_examples=150, deadline=None)
@given(instances())
def test_the_least_price_is_that_of_the_cheapest_way(instance: tuple[np.ndarray, np.ndarray, int, int]) -> None:
    length_EJ, price_J, pieces, need = instance
    table_SEL = least_prices(length_EJ, price_J, pieces, need)
    for e, length_J in enumerate(length_EJ):
        for s in range(1, pieces + 1):
            for covered in range(need + 1):
                expected = min(all_ways(length_J, price_J, s, covered).values(), default=np.inf)
                assert table_SEL[s, e, covered] == pytest.approx(expected)


@settings(max_examples=150, deadline=None)
@given(instances(), st.data())
def test_exactly_the_ways_within_the_price_and_the_room_are_listed(
    instance: tuple[np.ndarray, np.ndarray, int, int], data: st.DataObject
) -> None:
    length_EJ, price_J, pieces, need = instance
    size_J = np.array([data.draw(st.sampled_from([1, 2])) for _ in price_J])
    group_J = np.array([data.draw(st.integers(0, 1)) for _ in price_J])
    room = np.array([data.draw(st.integers(0, 8)), 8])
    most_E = np.array([data.draw(st.integers(0, 60)) / 7 for _ in length_EJ])
    found = list_covers(
        length_EJ,
        price_J,
        pieces,
        np.full(len(length_EJ), need),
        most_E,
        size_J=size_J,
        group_J=group_J,
        room=room,
        limit=10_000,
    )
    assert found is not None
    listed = [(int(e), *map(int, counts)) for e, counts in zip(found.instance_N, found.count_NJ, strict=True)]
    assert len(listed) == len(set(listed))
    expected = set()
    for e, length_J in enumerate(length_EJ):
        for counts, price in all_ways(length_J, price_J, pieces, need).items():
            used = [sum(n * size_J[j] for j, n in enumerate(counts) if group_J[j] == g) for g in (0, 1)]
            if price <= most_E[e] + 1e-9 and all(u <= r for u, r in zip(used, room, strict=True)):
                expected.add((e, *counts))
    assert set(listed) == expected


def test_more_ways_than_asked_for_are_none() -> None:
    lengths, ones = np.ones((1, 6), dtype=int), np.ones(6)
    some = {"size_J": np.ones(6, dtype=int), "group_J": np.zeros(6, dtype=int), "room": np.array([99])}
    need, most = np.array([4]), np.array([4.0])
    assert list_covers(lengths, ones, 4, need, most, **some, limit=10) is None
    found = list_covers(lengths, ones, 4, need, most, **some, limit=1000)
    assert found is not None
    assert len(found.count_NJ) == 126
