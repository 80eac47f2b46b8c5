"""AIConfigurator's kernel tables: rows in its own columns, of a new and an old release, in SI units of ours."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from planner.cluster import list_devices
from planner.errors import InputError
from planner.profiling.importers import import_tables
from planner.profiling.importers.aiconfigurator import SYSTEMS, import_aiconfigurator

RAW = Path(__file__).resolve().parents[1] / "fixtures" / "aiconfigurator"


def raw(name: str) -> tuple[Path, list[dict[str, str]]]:
    path = next(RAW.rglob(f"{name}_perf.txt"))
    with path.open(encoding="utf-8", newline="") as lines:
        return path, list(csv.DictReader(lines))


def test_every_system_is_a_gpu_type_that_ships() -> None:
    assert set(SYSTEMS.values()) <= set(list_devices())


def test_kinds_devices_and_software() -> None:
    found = {(t.origin.device, t.origin.table, t.origin.software, len(t)) for t in import_aiconfigurator(RAW)}
    assert found == {
        ("a100_sxm_80", "decode_attention", "sglang 0.5.10", 48),
        ("a100_sxm_80", "prefill_attention", "vllm 0.14.0", 43),
        ("h100_sxm", "gemm", "vllm 0.24.0", 72),
        ("h100_sxm", "collective", "nccl 2.29.2", 84),
        ("h100_sxm", "collective", "vllm 0.24.0", 46),
    }


def test_matrix_products_are_seconds_by_our_formats() -> None:
    _, rows = raw("gemm")
    table = next(import_aiconfigurator(RAW, kinds=("gemm",)))
    assert set(table["dtype"].tolist()) == {"bf16", "fp8"}
    assert table["seconds"] == pytest.approx([float(row["latency"]) * 1e-3 for row in rows])
    assert table["m"].tolist() == [int(row["m"]) for row in rows]


def test_messages_count_elements_there_and_bytes_here() -> None:
    _, rows = raw("nccl")
    table = next(t for t in import_aiconfigurator(RAW, kinds=("collective",)) if t.origin.software.startswith("nccl"))
    each = {"half": 2, "int8": 1}
    assert table["bytes"].tolist() == [int(row["message_size"]) * each[row["nccl_dtype"]] for row in rows]
    assert set(table["operation"].tolist()) == {"all_gather", "all_reduce", "all_to_all", "reduce_scatter"}
    # a ring of 8 H100 cannot pass an all-reduce faster than its NVLink, 450 GB/s each way, allows in the switch: 2x
    large = (table["operation"] == "all_gather") & (table["bytes"] >= 2**26)
    assert large.any()
    assert (0.875 * table["bytes"][large] / table["seconds"][large] < 450e9).all()


def test_what_runs_in_a_graph_is_told_from_what_the_host_launches() -> None:
    table = next(t for t in import_aiconfigurator(RAW, kinds=("collective",)) if t.origin.software.startswith("vllm"))
    assert set(table["library"].tolist()) == {"custom", "custom_eager"}
    small = table["bytes"] <= 2**14
    graph, eager = (
        np.median(table["seconds"][small & (table["library"] == one)]) for one in ("custom", "custom_eager")
    )
    assert eager > 3 * graph


def test_columns_that_an_old_release_lacks_have_their_defaults() -> None:
    path, rows = raw("generation_attention")
    assert "window_size" not in rows[0]
    table = next(import_aiconfigurator(RAW, kinds=("decode_attention",)))
    assert (table["window"] == 0).all()
    assert table["context"].tolist() == [int(row["isl"]) + int(row["step"]) for row in rows], path


def test_by_the_registry() -> None:
    names = [one.name for one in import_tables("aiconfigurator", RAW, device="NVIDIA H100 80GB HBM3")]
    assert names == ["collective-nccl-2.29.2", "collective-vllm-0.24.0", "gemm-vllm-0.24.0"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(RAW, tmp_path / "data")
    return tmp_path / "data"


def test_a_table_that_is_cut_short_or_lacks_a_column_is_named(copy: Path) -> None:
    path = next(copy.rglob("gemm_perf.txt"))
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:-30], encoding="utf-8")
    with pytest.raises(InputError, match="cut short"):
        list(import_aiconfigurator(copy))
    path.write_text(text.replace("latency", "time"), encoding="utf-8")
    with pytest.raises(InputError, match="lacks the column 'latency'"):
        list(import_aiconfigurator(copy))
    path.write_text(text.replace(",4096,", ",many,", 1), encoding="utf-8")
    with pytest.raises(InputError, match="no number"):
        list(import_aiconfigurator(copy))


def test_a_wrong_unit_is_refused(copy: Path) -> None:
    path = next(copy.rglob("gemm_perf.txt"))
    lines = path.read_text(encoding="utf-8").splitlines()
    head, cells = lines[0], lines[1].split(",")
    path.write_text("\n".join([head, ",".join([*cells[:-1], "1e-9"])]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="check the unit"):
        list(import_aiconfigurator(copy))


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no kernel tables"):
        list(import_aiconfigurator(tmp_path))
    with pytest.raises(InputError, match="no kernel tables of t4"):
        list(import_aiconfigurator(RAW, device="t4"))
    with pytest.raises(InputError, match="no such folder"):
        list(import_aiconfigurator(tmp_path / "missing"))


def test_rows_beyond_the_hardware_are_left_out_and_told(copy: Path) -> None:
    path = next(copy.rglob("gemm_perf.txt"))
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = next(line for line in lines if ",4096,8192,8192," in line and "bfloat16" in line).split(",")
    path.write_text("\n".join([*lines, ",".join([*cells[:-1], "0.3"])]) + "\n", encoding="utf-8")  # 1.8 PFLOP/s
    (one,) = (one for one in import_tables("aiconfigurator", copy, device="h100") if one.table.origin.table == "gemm")
    assert len(one.table) == 72
    assert "1 of 73 rows are left out" in one.table.origin.note
