"""Numbers and names as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cli.inputs import parse_replica
from planner.plan import Figure
from planner.report.words import format_bandwidth, format_error, format_figure, format_gpus, format_number

GPU = st.builds("{}-{}/{}".format, st.sampled_from(["a100", "l4.x", "b_2"]), st.integers(0, 3), st.integers(0, 12))


@settings(deadline=None, max_examples=300)
@given(st.lists(GPU, min_size=1, max_size=12, unique=True), st.integers(1, 99))
def test_gpus_are_read_back_as_they_are_written(gpus: list[str], layers: int) -> None:
    assert parse_replica(f"{format_gpus(gpus)}:{layers}") == [(tuple(gpus), layers)]
    assert parse_replica(format_gpus(gpus).replace(" ", "")) == [(tuple(gpus), None)]


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0.0983, "s", "98.3 ms"),
        (24.5 * 2**30, "bytes", "24.5 GiB"),
        (7.8934, "requests/s", "7.89 requests/s"),
        (1666.49, "tokens/s", "1,666 tokens/s"),
        (8.073, "USD", "8.07 USD"),
        (0.00123, "USD", "0.00123 USD"),
        (0.4211, "fraction", "42.1 %"),
        (16.0, "GPUs", "16 GPUs"),
    ],
)
def test_figures(value: float, unit: str, written: str) -> None:
    assert format_figure(Figure(value=value, unit=unit, error=0.1, provenance="spec")) == written


@settings(deadline=None)
@given(st.floats(1e-6, 1e12))
def test_numbers_keep_three_digits(value: float) -> None:
    assert float(format_number(value).replace(",", "")) == pytest.approx(value, rel=6e-3)


def test_errors_and_bandwidths() -> None:
    assert [format_error(error) for error in (0.0, 0.004, 0.1, 1.5)] == ["exact", "± 0.4 %", "± 10 %", "± 150 %"]
    assert [format_bandwidth(value) for value in (12.5e6, 300e9, 500.0)] == ["12.5 MB/s", "300 GB/s", "500 B/s"]
