"""Units, errors and resources."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InfeasibleError, InputError, PlannerError, SolverError, TimeLimitError, unknown_name
from planner.resources import read_text
from planner.units import format_bytes, format_seconds, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GiB", "bytes", 80 * 2**30),
        ("80GB", "bytes", 80e9),
        ("400 Gb/s", "bandwidth", 50e9),
        ("400 Gbit/s", "bandwidth", 50e9),
        ("50 GB/s", "bandwidth", 50e9),
        ("1.5 ms", "time", 1.5e-3),
        ("2", "time", 2.0),
        (2, "time", 2.0),
        ("312 TFLOP/s", "flops", 312e12),
        ("1e3 us", "time", 1e-3),
    ],
)
def test_quantities(text: str | float, dimension: str, value: float) -> None:
    assert parse_quantity(text, dimension) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "dimension"), [("fast", "time"), ("5 GB", "time"), ("", "bytes"), ("1e999 s", "time")]
)
def test_what_is_no_quantity_is_refused_with_an_example(text: str, dimension: str) -> None:
    with pytest.raises(ValueError):
        parse_quantity(text, dimension)


@given(st.floats(1e-6, 1e6))
def test_seconds_read_back(value: float) -> None:
    assert parse_quantity(format_seconds(value), "time") == pytest.approx(value, rel=0.06)


@given(st.floats(1024, 2.0**50))
def test_bytes_read_back(value: float) -> None:
    assert parse_quantity(format_bytes(value), "bytes") == pytest.approx(value, rel=0.06)


def test_every_error_has_its_documented_exit_code() -> None:
    codes = {PlannerError: 1, InputError: 4, InfeasibleError: 3, TimeLimitError: 5, SolverError: 1}
    assert {kind: kind.exit_code for kind in codes} == codes


def test_an_input_error_says_what_where_expected_and_what_to_try() -> None:
    error = InputError("-3", where="a.yaml", field="nodes.0.count", expected="at least 1", hint="1")
    assert str(error) == "a.yaml: nodes.0.count: -3\nexpected: at least 1\ntry: 1"
    assert "try: vllm" in str(unknown_name("engine", "vlmm", ["vllm", "sglang"]))


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_text(tmp_path / "none", "cluster")
    with pytest.raises(InputError, match="is a folder"):
        read_text(tmp_path, "cluster")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_text(tmp_path / "bytes", "cluster")
