"""Importers: small files in each format come in with the right values, and what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.cluster import list_devices
from planner.errors import InputError
from planner.profiling.importers import SOURCES, import_tables
from planner.profiling.importers.base import Imported
from planner.profiling.importers.metis import read_metis_cluster
from planner.profiling.plausibility import check
from planner.profiling.tables import MeasuredTable, measured_dir, read_measured
from tests.profiling.kinds_table import documented, kinds_table

TEXT = """\
# nccl-tests version 2.17.6 nccl-headers=22807 nccl-library=22807
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 2 minBytes 1048576 maxBytes 4194304 step: 2(factor) warmup iters: 1 iters: 20 agg iters: 1
# Using devices
#  Rank  0 Group  0 Pid   1 on  host1 device  0 [0000:07:00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid   1 on  host1 device  1 [0000:0a:00] NVIDIA H100 80GB HBM3
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
     1048576        524288  bfloat16     sum      -1    20.00   52.43   52.43       0    19.00   55.19   55.19       0
     4194304       2097152  bfloat16     sum      -1    50.00   83.89   83.89       0    51.00   82.24   82.24     N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 68.44
"""


def sailor(folder: Path) -> Path:
    layers = {str(layer): [1e-3 * (1 + (layer == 0)), 2e-3, 1e-4] for layer in range(4)}
    put(folder / "layer_profiles.json", {"OPT-350": {"A100-40": {"1": {"2": layers}}}})
    size = {"params_bytes": 4e6, "act_input_bytes": 1e6, "act_output_bytes": 2e6, "act_mem_bytes": 3e6}
    put(folder / "model_layers.json", {"OPT-350": {"2": {"0": size, "1": size}}})
    fit = [[0.80818532, 16.40103598, 32.98046678], 248876169884.0839]
    put(
        folder / "network_coeffs_all_homo.json",
        {"intra": {"A100-40": {"2": fit}}, "inter": {"A100-40": {"1": [[0.1, 0.2, 1.1], 2420367713.5]}}},
    )
    return folder


def helix(folder: Path) -> Path:
    for name, lines in (("prompt", "0,0\n250,10\n500,18\n"), ("decode", "0,0\n2,3.8\n4,3.9\n")):
        write(folder / "llama2_70b" / "t4x2" / f"{name}_bs2time.csv", lines)
    return folder


def metis_profile(tp: int = 1, **changed: Any) -> dict[str, Any]:
    profile = {
        "model": {
            "model_name": "GPT",
            "num_layers": 3,
            "parameters": {"total_parameters_bytes": 30, "parameters_per_layer_bytes": [10e6, 20e6, 10e6]},
        },
        "execution_time": {
            "total_time_ms": 100.0,
            "forward_backward_time_ms": 66.0,
            "batch_generator_time_ms": 1.0,
            "layernorm_grads_all_reduce_time_ms": 0.1,
            "embedding_grads_all_reduce_time_ms": 0.1,
            "optimizer_time_ms": 8.0 / tp,
            "layer_compute_total_ms": [3.0, 30.0, 30.0],
        },
        "execution_memory": {"total_memory": 900, "layer_memory_total_mb": [100.0, 400.0, 400.0]},
    }
    for key, value in changed.items():
        part, _, field = key.partition("__")
        if value is None:
            del profile[part][field]  # type: ignore[attr-defined]
        else:
            profile[part][field] = value  # type: ignore[index]
    return profile


def metis(folder: Path) -> Path:
    put(folder / "DeviceType.A100_tp1_bs1.json", metis_profile())
    put(folder / "DeviceType.A100_tp2_bs1.json", metis_profile(2))
    return folder


def vidur(folder: Path) -> Path:
    operators = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
    shapes = "n_head,n_kv_head,n_embd,n_expanded_embd,vocab_size,use_gated_mlp,num_tokens,num_tensor_parallel_workers"
    rows = ["1.9,0.6,3.3,1.6,32,32,4096,11008,32768,True,4096,1", "1.8,0.6,3.3,1.6,32,32,4096,11008,32768,True,4096,1"]
    header = ",".join(f"time_stats.{name}.median" for name in operators)
    write(folder / "compute" / "a100" / "llama" / "mlp.csv", "\n".join([f"{header},{shapes}", *rows]) + "\n")
    write(
        folder / "compute" / "a100" / "llama" / "attention.csv",
        "time_stats.attn_prefill.median,time_stats.attn_decode.median,n_embd,n_q_head,n_kv_head,block_size,"
        "num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size\n"
        "1.0,,8192,64,8,16,4,1,2048,0\n,0.05,8192,64,8,16,4,16,0,1024\n",
    )
    write(
        folder / "network" / "a100_dgx" / "all_reduce.csv",
        ",time_stats.all_reduce.median,rank,num_workers,size,collective,devices_per_node,max_devices_per_node\n"
        "0,0.9,0,16,67108864,all_reduce,8,8\n1,0.8,1,16,67108864,all_reduce,8,8\n",
    )
    return folder


def distserve(folder: Path) -> Path:
    fit = {
        "decoding_large_small_bs_threshold": 95,
        "prefill": [18.0, 0.1, 7e-6],
        "decoding_smallbs": [20.0, 6e-4, 0.04],
        "decoding_largebs": [7.0, 5e-4, 0.16],
    }
    put(folder / "profiler-a100-80g.vllm.json", {"facebook/opt-13b": {"1": fit}})
    write(folder / "max_num_tokens.csv", "model,tp,pp,max_num_tokens\nfacebook/opt-13b,1,1,66144\n")
    return folder


def muxserve(folder: Path) -> Path:
    cell = {"32": {"prefill": 24.0, "decoding": 18.0}, "64": {"prefill": -1.0, "decoding": 18.5}}
    put(folder / "llama_latency_ms.json", {"llama-13b": {"4": {"100": {"8": cell}}}})
    return folder


def nccl_tests(folder: Path) -> Path:
    write(folder / "run.txt", TEXT)
    return folder


def put(path: Path, data: object) -> None:
    write(path, json.dumps(data, indent=1))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


MADE: dict[str, Callable[[Path], Path]] = {
    "sailor": sailor,
    "helix": helix,
    "metis": metis,
    "vidur": vidur,
    "distserve": distserve,
    "muxserve": muxserve,
    "nccl_tests": nccl_tests,
}


def tables(kind: str, folder: Path, device: str | None = None) -> dict[str, MeasuredTable]:
    return {f"{one.table.origin.device}/{one.name}": one.table for one in import_tables(kind, folder, device=device)}


def row(table: MeasuredTable, at: int = 0) -> dict[str, Any]:
    return {name: values[at].item() for name, values in table.columns.items()}


@pytest.mark.parametrize("kind", MADE)
def test_small_files_of_every_source_are_plausible_and_keep_their_places(kind: str, tmp_path: Path) -> None:
    found = list(import_tables(kind, MADE[kind](tmp_path), device=None))
    assert found
    for one in found:
        assert len(one.places) == len(one.table)
        assert all(str(tmp_path) in place for place in one.places)
        assert check(one.table, where=one.where, places=one.places) == ()


def test_every_built_in_source_is_tried_here() -> None:
    assert set(SOURCES) - set(MADE) == {"aiconfigurator"}  # has a file of its own


def test_sailor_values(tmp_path: Path) -> None:
    found = tables("sailor", sailor(tmp_path))
    layers = found["a100_sxm_40/sailor_layers"]
    assert [row(layers, at)["layers"] for at in range(len(layers))] == [1, 3]
    assert row(layers, 1) | {"split": "measured"} == {
        "model": "opt-350m", "layer": 1, "tp": 2, "microbatch": 1, "seq_len": 2048, "layers": 3, "split": "measured",
        "forward": 1e-3, "backward": 2e-3, "update": 1e-4, "memory": 0.0,
    }  # fmt: skip
    assert row(found["any/sailor_layer_sizes"])["layers"] == 2
    links = found["a100_sxm_40/sailor_links"]
    assert [row(links)[name] for name in ("square", "linear", "constant")] == [0.80818532, 16.40103598, 32.98046678]


def test_helix_values(tmp_path: Path) -> None:
    table = tables("helix", helix(tmp_path))["t4/helix_layers"]
    rows = [row(table, at) for at in range(len(table))]
    assert {one["tp"] for one in rows} == {2}
    assert [(r["batch"], r["tokens"], round(r["seconds"], 9)) for r in rows if r["phase"] == "prefill"] == [
        (1, 250, 0.01),
        (1, 500, 0.018),
    ]
    assert [r["batch"] for r in rows if r["phase"] == "decode"] == [2, 4]


def test_metis_values(tmp_path: Path) -> None:
    found = tables("metis", metis(tmp_path))
    layer = row(found["a100_sxm_80/metis_layers"], 1)
    assert layer["forward"] + layer["backward"] == pytest.approx(30e-3)
    assert (layer["split"], layer["memory"]) == ("assumed", 400e6)
    step = row(found["a100_sxm_80/metis_steps"], 1)
    assert step == {
        "model": "GPT", "tp": 2, "microbatch": 1, "forward_backward": 66e-3, "optimizer": 4e-3,
        "batch_generation": 1e-3,
    }  # fmt: skip
    assert found["a100_sxm_80/metis_sizes"]["parameters"].tolist() == [10e6, 20e6, 10e6] * 2


@pytest.mark.parametrize(
    "field",
    [
        "execution_time.forward_backward_time_ms",
        "execution_time.layer_compute_total_ms",
        "execution_memory.layer_memory_total_mb",
    ],
)
def test_metis_names_the_field_that_is_missing(field: str, tmp_path: Path) -> None:
    part, _, name = field.partition(".")
    put(tmp_path / "DeviceType.A100_tp1_bs1.json", metis_profile(**{f"{part}__{name}": None}))
    with pytest.raises(InputError, match=r"A100_tp1_bs1\.json: " + field.replace(".", r"\.") + ": is missing"):
        tables("metis", tmp_path)


@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_metis_cluster_in_gb_or_bytes_per_second(scale: float, tmp_path: Path) -> None:
    write(tmp_path / "hostfile", "10.0.0.1 slots=4\n\n# spare\n10.0.0.2 slots=16\n")
    node = {"instance_type": "A100", "inter_bandwidth": 10 * scale, "intra_bandwidth": 46 * scale, "memory": 80}
    put(tmp_path / "clusterfile.json", {"10.0.0.1": node, "10.0.0.2": node | {"instance_type": "T4", "memory": 15}})
    spec = read_metis_cluster(tmp_path / "hostfile", tmp_path / "clusterfile.json")
    assert [(group.gpu, group.gpus_per_node) for group in spec.nodes] == [("a100_sxm_80", 4), ("t4", 16)]
    assert spec.nodes[0].nic.bandwidth == 10e9
    assert spec.nodes[0].intra_link.bandwidth == 46e9  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("hosts", "told"),
    [("10.0.0.1 8\n", "slots=4"), ("10.0.0.9 slots=4\n", "not in the clusterfile"), ("\n", "names no node")],
)
def test_wrong_hostfiles_are_named(hosts: str, told: str, tmp_path: Path) -> None:
    write(tmp_path / "hostfile", hosts)
    node = {"instance_type": "A100", "inter_bandwidth": 10, "intra_bandwidth": 46, "memory": 80}
    put(tmp_path / "clusterfile.json", {"10.0.0.1": node})
    with pytest.raises(InputError, match=told):
        read_metis_cluster(tmp_path / "hostfile", tmp_path / "clusterfile.json")


def test_vidur_values(tmp_path: Path) -> None:
    found = tables("vidur", vidur(tmp_path))
    gemm = found["a100_sxm_80/vidur_gemm"]
    by_shape = {(r["n"], r["k"]): r["seconds"] for r in (row(gemm, at) for at in range(len(gemm)))}
    assert by_shape == {
        (3 * 4096, 4096): pytest.approx(1.85e-3),  # the median of two rows
        (4096, 4096): 0.6e-3,
        (2 * 11008, 4096): 3.3e-3,
        (4096, 11008): 1.6e-3,
    }
    prefill, decode = (row(found[f"a100_sxm_80/vidur_{name}_attention"]) for name in ("prefill", "decode"))
    assert (prefill["tokens"], prefill["heads"], prefill["kv_heads"], prefill["head_dim"]) == (2048, 16, 2, 128)
    assert (decode["batch"], decode["context"], decode["seconds"]) == (16, 1024, 5e-5)
    reduce = found["a100_sxm_80/vidur_collectives"]
    assert len(reduce) == 1  # rank 0 alone
    assert (row(reduce)["gpus"], row(reduce)["nodes"], row(reduce)["bytes"]) == (16, 2, 67108864)


def test_vidur_says_what_a_git_lfs_pointer_is(tmp_path: Path) -> None:
    write(tmp_path / "a100" / "attention.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="Git LFS pointer"):
        tables("vidur", tmp_path)


def test_distserve_values(tmp_path: Path) -> None:
    found = tables("distserve", distserve(tmp_path))
    fit = found["a100_sxm_80/distserve_latency"]
    rows = [row(fit, at) for at in range(3)]
    assert [(r["phase"], r["from_batch"], r["below_batch"]) for r in rows] == [
        ("prefill", 1, 0),
        ("decode", 1, 95),
        ("decode", 95, 0),
    ]
    # 100 prompt tokens: 18 + 0.1 * 100 + 7e-6 * 100^2 ms
    prefill = rows[0]
    assert prefill["constant"] + prefill["per_token"] * 100 + prefill["per_square"] * 100**2 == pytest.approx(28.07e-3)
    assert rows[2]["per_sequence"] == pytest.approx(0.16e-3)
    assert row(found["a100_sxm_80/distserve_kv_capacity"])["capacity"] == 66144


def test_muxserve_leaves_out_what_was_not_run(tmp_path: Path) -> None:
    table = tables("muxserve", muxserve(tmp_path))["a100_sxm_80/muxserve_iterations"]
    assert sorted(
        zip(table["phase"].tolist(), table["tokens"].tolist(), table["seconds"].round(9).tolist(), strict=True)
    ) == [
        ("decode", 32, 0.018),
        ("decode", 64, 0.0185),
        ("prefill", 32, 0.024),
    ]


def nccl_json(text: str = TEXT) -> dict[str, Any]:
    """The same run as JSON."""
    results = []
    for line in text.splitlines():
        fields = line.split()
        if fields[0].isdigit():
            sides = [fields[5:9], fields[9:13]]
            results.append(
                {"size": int(fields[0]), "count": int(fields[1]), "type": fields[2], "redop": fields[3], "root": "-1"}
                | {
                    name: {
                        "time": float(t),
                        "alg_bw": float(a),
                        "bus_bw": float(b),
                        "nwrong": None if w == "N/A" else 0,
                    }
                    for name, (t, a, b, w) in zip(("out_of_place", "in_place"), sides, strict=True)
                }
            )
    device = {"group": 0, "pid": 1, "hostname": "host1", "device_info": "NVIDIA H100 80GB HBM3"}
    devices = [device | {"rank": rank, "device": rank} for rank in range(2)]
    return {"version": 1, "args": ["./all_reduce_perf"], "config": {"devices": devices}, "results": results}


def test_nccl_text_and_json_say_the_same(tmp_path: Path) -> None:
    write(tmp_path / "run.txt", TEXT)
    put(tmp_path / "run.json", nccl_json())
    text, data = (tables("nccl_tests", tmp_path / f"run.{end}")["h100_sxm/nccl_tests"] for end in ("txt", "json"))
    for name in text.columns:
        assert text[name].tolist() == data[name].tolist(), name
    assert text["seconds"].tolist() == pytest.approx([19e-6, 50e-6])  # the faster of out of place and in place
    assert row(text)["dtype"] == "bf16"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("# Avg bus bandwidth    : 68.44\n", "", "ends without its summary"),
        (
            "4194304       2097152  bfloat16     sum      -1    50.00   83.89",
            "4194304  2097152  bfloat16  sum",
            "fields",
        ),
        ("52.43   52.43", "52.43   91.75", "busbw"),
        ("20.00   52.43   52.43", "20.00   419.4   419.4", "bits for bytes"),
        ("83.89       0", "83.89       7", "7 wrong values"),
        ("all_reduce_perf", "mystery_perf", "which collective"),
        ("H100 80GB HBM3", "Z100", "unknown GPU 'NVIDIA Z100'"),
    ],
)
def test_nccl_output_that_cannot_be_is_refused(old: str, new: str, told: str, tmp_path: Path) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new)
    if "out of bounds" in told or "summary" in told:
        text = text.replace("# Out of bounds values : 0 OK\n", "")
    write(tmp_path / "run.txt", text)
    with pytest.raises(InputError, match=told):
        tables("nccl_tests", tmp_path)


@pytest.mark.parametrize("kind", ["sailor", "metis", "distserve", "muxserve"])
def test_truncated_json_is_named_with_its_line(kind: str, tmp_path: Path) -> None:
    folder = MADE[kind](tmp_path)
    file = sorted(folder.glob("*.json"))[0]
    text = file.read_text()
    file.write_text(text[: int(len(text) * 0.6)])
    with pytest.raises(InputError, match=rf"{file.name}:\d+: is not valid JSON") as caught:
        tables(kind, folder)
    assert "cut short" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("helix", "llama2_70b/t4x2/prompt_bs2time.csv"),
        ("vidur", "compute/a100/llama/mlp.csv"),
        ("distserve", "max_num_tokens.csv"),
    ],
)
def test_truncated_csv_is_named_with_its_line(kind: str, file: str, tmp_path: Path) -> None:
    path = MADE[kind](tmp_path) / file
    lines = path.read_text().rstrip().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1].rpartition(",")[0]]))
    with pytest.raises(InputError, match=rf"{path.name}:{len(lines)}: .*fields") as caught:
        tables(kind, tmp_path)
    assert "cut short" in str(caught.value)


@pytest.mark.parametrize(("kind", "column"), [("vidur", "num_tokens"), ("distserve", "max_num_tokens")])
def test_missing_columns_are_named(kind: str, column: str, tmp_path: Path) -> None:
    MADE[kind](tmp_path)
    file = next(path for path in tmp_path.glob("**/*.csv") if column in path.read_text())
    file.write_text(file.read_text().replace(column, "other", 1))
    with pytest.raises(InputError, match=f"lacks the column '{column}'"):
        tables(kind, tmp_path)


@pytest.mark.parametrize("kind", MADE)
def test_a_folder_with_nothing_in_it_is_told(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        tables(kind, tmp_path)


@pytest.mark.parametrize("kind", MADE)
def test_an_unknown_gpu_lists_the_closest(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown GPU 'h100_smx'") as caught:
        tables(kind, MADE[kind](tmp_path), device="h100_smx")
    assert "h100_sxm" in str(caught.value).split("try:")[1]


def test_an_unknown_gpu_inside_a_file_is_named_with_its_field(tmp_path: Path) -> None:
    sailor(tmp_path)
    put(tmp_path / "layer_profiles.json", {"OPT-350": {"A1000-40": {"1": {"2": {"0": [1.0, 1.0, 0.0]}}}}})
    with pytest.raises(InputError, match=r"layer_profiles\.json: OPT-350\.A1000-40: unknown GPU"):
        tables("sailor", tmp_path)


def test_an_unknown_source_lists_the_known() -> None:
    with pytest.raises(InputError, match="unknown kind of profile 'sailer'") as caught:
        tables("sailer", Path())
    assert str(caught.value).endswith("try: sailor")


SHIPPED = sorted(path for path in measured_dir().glob("*/*.csv") if path.parent.name != "kernels")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_tables_are_read_again_and_plausible(path: Path) -> None:
    table = read_measured(path)
    assert table.origin.device == path.parent.name
    assert table.origin.device in (*list_devices(), "any")
    assert table.origin.licence in ("MIT", "Apache-2.0")
    check(table, where=str(path))


def test_shipped_sailor_fits_price_a_message_as_published() -> None:
    """Sailor's fit for two A100 of a node: 246 GB/s at 512 MB, close to its peak."""
    table = read_measured(measured_dir() / "a100_sxm_40" / "sailor_links.csv")
    at = int(np.flatnonzero((table["scope"] == "node") & (table["gpus"] == 2))[0])
    fit = [float(table[name][at]) for name in ("square", "linear", "constant")]
    assert 1e9 * np.polyval(fit, np.log2(512)) == pytest.approx(246.05e9, rel=1e-3)
    assert 1e9 * np.polyval(fit, np.log2(512)) == pytest.approx(table["peak"][at], rel=0.02)


def test_an_imported_table_tells_the_place_of_a_wrong_value(tmp_path: Path) -> None:
    helix(tmp_path)
    write(tmp_path / "llama2_70b" / "t4x2" / "decode_bs2time.csv", "0,0\n2,-1.4\n")
    with pytest.raises(InputError, match=r"decode_bs2time\.csv:2: seconds: found"):
        tables("helix", tmp_path)


def test_imported_is_what_importers_give_back(tmp_path: Path) -> None:
    assert all(isinstance(one, Imported) for one in import_tables("helix", helix(tmp_path)))


def test_every_kind_of_table_is_documented_as_it_is() -> None:
    assert documented() == kinds_table(), "python -m tests.profiling.kinds_table"
