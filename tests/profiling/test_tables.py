"""The common layout of measurements: what is written comes back, and what is wrong is named with its line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cluster.surface import Surface, read_surfaces, write_surfaces
from planner.errors import InputError
from planner.profiling.tables import KINDS, MeasuredTable, Origin, read_measured, write_measured

ORIGIN = Origin(table="gemm", device="h100_sxm", title="t", source="test", licence="Apache-2.0", date="2026-11")
COLUMNS = {"dtype": ["bf16", "fp8"], "m": [1, 8], "n": [4096, 4096], "k": [1024, 1024], "seconds": [1e-5, 2e-5]}


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = MeasuredTable.of(ORIGIN, COLUMNS, where="here")
    path = tmp_path / "h100_sxm" / "gemm.csv"
    write_measured(table, path)
    again = read_measured(path)
    assert again.origin == ORIGIN
    for name, values in table.columns.items():
        assert again[name].tolist() == values.tolist()
    assert "spread" not in path.read_text().splitlines()[0]  # all default


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("fp8,8,4096,1024", "4 fields where the header has 5"),
        ("fp8,8,4096,1024,20000", "check the unit"),
        ("fp8,8.5,4096,1024,2e-5", "a whole number"),
        ("fp8,8,4096,1024,nan", "seconds"),
        ("fp8,8,4096,1024,fast", "seconds"),
    ],
)
def test_bad_rows_are_named_with_their_line(tmp_path: Path, row: str, told: str) -> None:
    path = tmp_path / "gemm.csv"
    write_measured(MeasuredTable.of(ORIGIN, COLUMNS, where="here"), path)
    path.write_text("\n".join([*path.read_text().splitlines()[:2], row]) + "\n")
    with pytest.raises(InputError) as caught:
        read_measured(path)
    assert "gemm.csv:3" in str(caught.value)
    assert told in str(caught.value)


def test_columns_must_be_those_of_the_kind() -> None:
    with pytest.raises(InputError, match="lacks the column 'seconds'"):
        MeasuredTable.of(ORIGIN, {k: v for k, v in COLUMNS.items() if k != "seconds"}, where="x")
    with pytest.raises(InputError, match="unknown column 'ms'"):
        MeasuredTable.of(ORIGIN, COLUMNS | {"ms": [1, 2]}, where="x")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_kinds_have_results_and_distinct_columns(kind) -> None:
    assert len(set(kind.names)) == len(kind.names)
    assert kind.results and kind.settings and kind.title


@given(st.integers(0, 2**32 - 1))
def test_a_surface_gives_back_its_grid_and_stays_between_neighbours(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 5, size=3))
    axes = tuple((name, np.cumsum(random.uniform(0.1, 9, size=n))) for name, n in zip("abc", shape, strict=True))
    surface = Surface(axes, random.normal(size=shape))
    grid = np.meshgrid(*(points for _, points in axes), indexing="ij")
    np.testing.assert_allclose(surface.at(*grid), np.exp(surface.log_values), rtol=1e-9)
    anywhere = [random.uniform(0.01, 50, size=20) for _ in axes]
    found = surface.at(*anywhere)
    assert (found >= np.exp(surface.log_values.min()) * (1 - 1e-9)).all()
    assert (found <= np.exp(surface.log_values.max()) * (1 + 1e-9)).all()


def test_surfaces_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    surface = Surface((("m", np.array([1.0, 2.0])),), np.array([0.5, -0.25]))
    write_surfaces({"gemm bf16": surface}, path)
    again = read_surfaces(path)["gemm bf16"]
    assert again.names == ("m",)
    np.testing.assert_allclose(again.log_values, surface.log_values)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="cannot be read"):
        read_surfaces(path)
