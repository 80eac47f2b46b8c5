"""Fits of routed experts and latent attention: a known surface is found again, and what cannot be read says so."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from planner.cluster import load_device
from planner.cluster.measured import load_fitted, read_fitted
from planner.errors import InputError
from planner.profiling.fit import moe
from planner.profiling.fit.mixture import fit_mixture, write_mixture
from planner.profiling.fit.mla import fit_latent, latent_rooflines_R
from planner.profiling.fit.moe import fit_experts, rooflines_R
from planner.profiling.importers.aiconfigurator_moe import import_mixture, import_moe
from planner.profiling.tables import MeasuredTable, Origin, read_measured

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
H200 = load_device("h200")
TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
SHAPES = ((7168, 2048, 8, 256), (4096, 1536, 8, 128), (2048, 768, 8, 128), (6144, 2560, 8, 160))


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second knot: a fit takes a second instead of eight."""
    knots = moe._AXES
    monkeypatch.setattr(moe, "_AXES", tuple((name, (*k[:-1:2], k[-1])) for name, k in knots))


def experts_table(seconds: float | None = None) -> MeasuredTable:
    rows = [
        (tokens, *shape, tp, ep, distribution)
        for tokens in TOKENS
        for shape in SHAPES
        for tp, ep in ((1, 1), (8, 1), (1, 8), (2, 4))
        for distribution in ("balanced", "power_law_1.2")
    ]
    names = ("tokens", "hidden", "intermediate", "top_k", "experts", "tp", "ep", "distribution")
    columns: dict[str, list[object]] = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    columns["dtype"] = ["fp8_block"] * len(rows)
    columns["seconds"] = [seconds or 1e-3] * len(rows)
    origin = Origin(
        table="moe", device="h200", title="made", source="made", licence="none", date="2026", software="trtllm 1"
    )
    return MeasuredTable.of(origin, columns, where="made")


def test_a_known_share_of_the_roofline_is_found_again() -> None:
    table = experts_table()
    each_R, work_R = rooflines_R(table, H200)
    share_R = 0.3 * each_R**0.05 * (work_R / (work_R + 20e-6))
    columns = dict(table.columns) | {"seconds": work_R / share_R}
    fitted = fit_experts(MeasuredTable(table.origin, columns), H200)
    assert set(fitted) == {"fp8_block/trtllm", "fp8_block/trtllm/shapes"}
    surface, facts = fitted["fp8_block/trtllm"]
    width_R = table["intermediate"] / table["tp"]
    miss_R = np.abs(surface.at(each_R, width_R, work_R, table["ep"]) / share_R - 1.0)
    assert np.median(miss_R) < 0.03
    assert facts.error_median is not None and facts.error_median < 0.1
    corrections, named = fitted["fp8_block/trtllm/shapes"]
    assert list(named.named) == sorted("x".join(map(str, shape)) for shape in SHAPES)
    assert np.abs(np.expm1(corrections.log_values)).max() < 0.1


def test_a_shape_that_is_slower_throughout_gets_a_correction() -> None:
    table = experts_table()
    each_R, work_R = rooflines_R(table, H200)
    slow_R = table["hidden"] == 2048
    columns = dict(table.columns) | {"seconds": work_R / np.where(slow_R, 0.2, 0.4)}
    fitted = fit_experts(MeasuredTable(table.origin, columns), H200)
    surface, _ = fitted["fp8_block/trtllm"]
    corrections, facts = fitted["fp8_block/trtllm/shapes"]
    place = list(facts.named).index("2048x768x8x128") + 1
    mine = np.flatnonzero(slow_R & (table["tokens"] == 64))
    width = (table["intermediate"] / table["tp"])[mine]
    general = surface.at(each_R[mine], width, work_R[mine], table["ep"][mine])
    share = general * corrections.at(float(place), each_R[mine], width, table["ep"][mine])
    # few rows pull it part of the way only
    assert abs(np.log(np.median(share) / 0.2)) < 0.75 * abs(np.log(np.median(general) / 0.2))
    assert np.median(share) == pytest.approx(0.2, rel=0.2)


def test_latent_attention_of_the_fixture_fits() -> None:
    table = read_measured(FIXTURES / "mla_decode_h200.csv")
    fitted = fit_latent(table, H200)
    assert set(fitted) == {"decode/bf16/trtllm", "decode/fp8/trtllm"}
    surface, _ = fitted["decode/fp8/trtllm"]
    mine = table["kv_dtype"] == "fp8"
    share = latent_rooflines_R(table, H200)[mine] / table["seconds"][mine]
    found = surface.at(*(table[name][mine] for name in ("heads", "batch", "context")))
    assert np.median(np.abs(found / share - 1.0)) < 0.1


@pytest.mark.parametrize(
    "device", ["a100_sxm_80", "h100_sxm", "h200", "b200", "b300", "gb200", "gb300", "l40s", "rtx_pro_6000"]
)
def test_shipped_surfaces_say_how_wrong_they_are(device: str) -> None:
    for family in ("moe", "mla"):
        fitted = load_fitted(device, family)
        assert fitted
        for name, one in fitted.items():
            assert 0.0 < one.facts.error < 1.0, name
            assert one.facts.rows >= 100
            assert one.facts.software.split()[0] in name
            if name.endswith("/shapes"):
                assert len(one.facts.named) == one.surface.axes[0][1].size
            shares = np.exp(one.surface.log_values)
            assert (shares > 1e-6).all() and (shares < 20).all(), name


def test_tables_need_pandas_and_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "h200_sxm" / "moe" / "trtllm" / "1.3.0"
    folder.mkdir(parents=True)
    (folder / "moe_perf.parquet").write_bytes(b"PAR1")
    assert import_moe(tmp_path, "h200_sxm", "vllm", "h200") is None
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pandas"):
        import_moe(tmp_path, "h200_sxm", "trtllm", "h200")


def test_from_tables_to_the_files_that_ship(tmp_path: Path) -> None:
    tables = [read_measured(FIXTURES / f"{name}.csv") for name in ("mla_decode_h200", "mla_prefill_h200")]
    fitted = fit_mixture([*tables, experts_table(2e-4)], H200)
    assert set(fitted) == {"moe", "mla"}
    written = dict(write_mixture(fitted, "h200", tables[0].origin, tmp_path))
    assert set(written) == {tmp_path / "h200" / "moe.npz", tmp_path / "h200" / "mla.npz"}
    file, back = read_fitted(tmp_path / "h200" / "mla.npz")
    assert file.licence == "Apache-2.0" and "aiconfigurator-core" in file.source
    for name, (surface, _) in fitted["mla"].items():
        assert back[name].surface.log_values == pytest.approx(surface.log_values, abs=2e-3)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list(import_mixture(tmp_path / "nowhere"))
    assert list(import_mixture(tmp_path, device="h200")) == []
