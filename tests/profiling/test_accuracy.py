"""Truth files are recognised, read, and predicted row by row; errors are what they say, and do not grow."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from planner.errors import InputError
from planner.profiling.accuracy import (
    LAYOUTS,
    Accuracy,
    Comparison,
    Skipped,
    accuracy_of,
    list_truth,
    load_truth,
    predictions_csv,
    rank_correlations,
    recognise,
    score,
)
from planner.profiling.accuracy.names import device_of, load_of, model_of, truth_dir
from planner.profiling.accuracy.records import SkipRowError
from planner.profiling.accuracy.table import Row, Table, read_table
from planner.profiling.accuracy.training import reported_flops
from tests.profiling.reference import GOLDEN, errors_of, part_left_out, part_of

LAYOUT_OF = {
    "muxserve_latency": "muxserve",
    "serving_silicon_dense": "serving_silicon",
    "serving_silicon_disagg": "serving_silicon",
    "serving_silicon_moe": "serving_silicon",
    "training_megatron_bridge": "training_megatron_bridge",
    "training_megatron_h100": "training_megatron_h100",
    "training_megatron_sc21": "training_megatron_sc21",
    "training_mlsys23_fig1_memory_gib": "training_mlsys23_memory",
    "training_mlsys23_fig7_activation_pct": "training_mlsys23_activations",
    "training_mlsys23_table5_itertime": "training_mlsys23_itertime",
    "training_sailor": "training_sailor",
    "trtllm_first_token_latency": "trtllm_first_token",
    "trtllm_max_load_throughput": "trtllm_max_load",
    "trtllm_static_batch_throughput": "trtllm_static_batch",
}
ROWS = {"serving_silicon_dense": 633, "serving_silicon_moe": 387, "serving_silicon_disagg": 184}


@pytest.fixture(scope="module")
def parts() -> dict[str, Accuracy]:
    """A part of every shipped file, predicted."""
    return {name: accuracy_of(part_of(name)) for name in list_truth()}


def comparison(measured: float, predicted: float, **fields: object) -> Comparison:
    settings = {"row": 1, "model": "m", "device": "d", "engine": "e", "figure": "tpot", "error": 0.1}
    return Comparison(measured=measured, predicted=predicted, **(settings | fields))  # type: ignore[arg-type]


# -- files and layouts


def test_all_that_ships_is_known() -> None:
    assert list_truth() == tuple(sorted(LAYOUT_OF))
    assert set(LAYOUT_OF.values()) == set(LAYOUTS)


@pytest.mark.parametrize("name", sorted(LAYOUT_OF))
def test_layouts_are_told_by_columns(name: str) -> None:
    table = load_truth(name)
    assert recognise(table.columns, "x").name == LAYOUT_OF[name]
    # the original files have more columns, empty ones among them, in another order
    more = ("source", "image", "prefill_tp_size", *reversed(table.columns), "decode_tp_size", "remark")
    assert recognise(more, "x").name == LAYOUT_OF[name]


@pytest.mark.parametrize("name", sorted(LAYOUT_OF))
def test_description_matches_the_table(name: str) -> None:
    described = yaml.safe_load((truth_dir() / f"{name}.yaml").read_text(encoding="utf-8"))
    table = load_truth(name)
    assert described["rows"] == len(table.rows) == ROWS.get(name, len(table.rows))
    assert tuple(described["columns"]) == table.columns
    assert described["file"] == f"{name}.csv"
    assert described["kind"] == "measured"
    assert described["licence"]
    assert all(any(row.text(column) for row in table.rows) for column in table.columns), "an empty column"


def test_unknown_columns_name_the_known_layouts() -> None:
    with pytest.raises(InputError) as caught:
        recognise(["model", "gpu", "precision", "tp", "isl", "osl", "speed"], "mine.csv")
    message = str(caught.value)
    assert "mine.csv: has columns of no known layout" in message
    assert all(layout in message for layout in LAYOUTS)
    assert "nearest is trtllm_max_load, which also needs total_output_tokens_per_s" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b\n", "has a header but no rows"),
        ("a,b,a\n1,2,3\n", "has the column 'a' twice"),
        ("a,b\n1,2\n3\n", ":3: 1 fields where the header has 2"),
        ('a,b\n1,"2\n', "is not CSV"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert said in str(caught.value)


def test_bad_value_names_line_and_column(tmp_path: Path) -> None:
    text = (truth_dir() / "serving_silicon_dense.csv").read_text(encoding="utf-8").splitlines()[:4]
    text[2] = text[2].rsplit(",", 1)[0] + ",fast"
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.csv:3: silicon_tpot_ms: found 'fast'"):
        accuracy_of(path)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="unknown truth file 'serving_silicon_dens'"):
        load_truth("serving_silicon_dens")
    with pytest.raises(InputError, match="no such file"):
        load_truth("nowhere/mine.csv")
    with pytest.raises(InputError, match="unknown layout"):
        accuracy_of("training_sailor", layout="vidur")


# -- names


@pytest.mark.parametrize(
    ("written", "precision", "expected"),
    [
        ("meta-llama/Llama-3.1-70B", "fp8", ("llama-3.1-70b", "fp8", "fp8")),
        ("Llama-3.3-70B", "fp4", ("llama-3.1-70b", "nvfp4", "fp8")),
        ("meta-llama/Llama-3.1-8B-Instruct", "", ("llama-3.1-8b", "bf16", "bf16")),
        ("Mixtral 8x7B", "FP16", ("mixtral-8x7b", "fp16", "fp16")),
        ("openai/gpt-oss-120b", "nvfp4", ("gpt-oss-120b", "mxfp4", "bf16")),
        ("deepseek-ai/DeepSeek-R1", "fp8", ("deepseek-r1", "fp8", "fp8")),
        ("deepseek-ai/DeepSeek-R1", "nvfp4", ("deepseek-r1", "nvfp4", "fp8")),
        ("Qwen/Qwen3-235B-A22B-FP8", "fp8_block", ("qwen3-235b-a22b-fp8", "fp8", "fp8")),
        ("qwen2.5-7b", "", ("qwen2.5-7b", "bf16", "bf16")),
    ],
)
def test_models_by_alias(written: str, precision: str, expected: tuple[str, str, str]) -> None:
    model = model_of(written, precision)
    assert (model.name, model.weight_dtype, model.kv_dtype) == expected


def test_an_engine_left_to_its_default_keeps_the_cache_of_the_checkpoint() -> None:
    named = "deepseek-ai/DeepSeek-R1", "fp8"
    assert (model_of(*named, "sglang").kv_dtype, model_of(*named, "trtllm").kv_dtype) == ("bf16", "fp8")


def test_published_sizes_of_models_without_a_file() -> None:
    for name, billions in (("megatron-22B", 22), ("gpt3-175B", 175), ("turing-530B", 530), ("megatron-1T", 1008)):
        assert model_of(name).params / 1e9 == pytest.approx(billions, rel=0.01)


def test_what_no_alias_knows() -> None:
    for call, said in (
        (lambda: model_of("Falcon 181B"), "model 'Falcon 181B' does not ship"),
        (lambda: model_of("LLaMA 7B", "fp3"), "precision 'fp3' is not known"),
        (lambda: device_of("TPU v5"), "GPU 'TPU v5' has no profile"),
    ):
        with pytest.raises(SkipRowError, match=said):
            call()
    assert device_of("h200_sxm").name == "h200"
    assert device_of("rtx_pro_6000_bw_se").name == "rtx_pro_6000"


def test_every_serving_row_has_a_load_of_its_own() -> None:
    """No shipped row falls through to the rule for unknown harnesses."""
    for name in ("serving_silicon_dense", "serving_silicon_moe", "trtllm_max_load_throughput"):
        for row in load_truth(name).rows:
            rule = load_of(LAYOUT_OF[name], row)
            assert rule.match, f"{name} row {row.number}"
            if name.startswith("trtllm"):
                assert rule.requests is not None
    unknown = Row(1, 2, "x", {"harness": "mine", "backend": "vllm"})
    assert load_of("serving_silicon", unknown).match == {}


# -- predictions


@pytest.mark.parametrize("name", sorted(LAYOUT_OF))
def test_every_row_is_predicted_or_told_why_not(parts: dict[str, Accuracy], name: str) -> None:
    accuracy = parts[name]
    predicted = {one.row for one in accuracy.comparisons}
    skipped = [one.row for one in accuracy.skipped]
    assert len(set(skipped)) == len(skipped)
    assert predicted.isdisjoint(skipped)
    assert predicted | set(skipped) == {row.number for row in accuracy.table.rows}
    assert all(len(one.why) > 10 for one in accuracy.skipped)
    pairs = [(one.row, one.figure) for one in accuracy.comparisons]
    assert len(set(pairs)) == len(pairs)
    assert all(one.measured > 0 and one.predicted > 0 and one.error > 0 for one in accuracy.comparisons)
    assert accuracy.fitted


def test_what_cannot_be_priced() -> None:
    why = {one.why for one in accuracy_of("serving_silicon_disagg").skipped}
    assert why == {"the row does not say how many prefill and decode workers there are"}
    assert accuracy_of("serving_silicon_moe").skipped == ()


def test_no_part_got_worse() -> None:
    """Cross-validated errors, by at most a point; ``tests.profiling.reference`` stores what is meant to change."""
    stored = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert sorted(stored) == list(list_truth())
    worse = []
    for name, before in stored.items():
        now = errors_of(part_left_out(name))
        assert sorted(now) == sorted(before), name
        worse += [
            f"{name} {figure} {sort}: {before[figure][sort]} -> {now[figure][sort]} %"
            for figure in now
            for sort in ("mean", "median")
            if now[figure][sort] > before[figure][sort] + 1
        ]
    assert worse == []


def test_order_of_configurations(parts: dict[str, Accuracy]) -> None:
    """A search needs the right order: within one workload it is nearly perfect."""
    found = sorted(rank_correlations(accuracy_of("serving_silicon_dense")).values())
    assert len(found) > 25
    assert found[len(found) // 2] > 0.98
    assert rank_correlations(parts["training_sailor"]) == {}


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    """Rows that were made by the prediction itself are predicted without error."""
    columns = ["harness", "backend", "model_path", "system", "isl", "osl", "batch_size", "tp_size"]
    first = tmp_path / "first.csv"
    rows = [["mine", "vllm", "llama-3.1-8b", "h100_sxm", "1024", "128", str(b), "1"] for b in (1, 8, 64)]

    def write(path: Path, times: list[tuple[float, float]]) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, "silicon_ttft_ms", "silicon_tpot_ms"])
            writer.writerows([*row, *time] for row, time in zip(rows, times, strict=True))

    write(first, [(1.0, 1.0)] * 3)
    found = {(one.row, one.figure): one.predicted for one in accuracy_of(first).comparisons}
    second = tmp_path / "second.csv"
    write(second, [(1e3 * found[n, "ttft"], 1e3 * found[n, "tpot"]) for n in (1, 2, 3)])
    for scored in accuracy_of(second).overall:
        assert scored.n == 3
        assert scored.mean_ape == pytest.approx(0, abs=1e-9)
        assert scored.coverage90 == 1


def test_reported_flops_are_those_of_the_paper() -> None:
    """Row 2 of table 1: 142 TFLOP/s on 128 GPUs take 3.696 s."""
    row = load_truth("training_megatron_sc21").rows[1]
    model = next(one.model for one in accuracy_of("training_megatron_sc21").comparisons if one.row == 2)
    assert model == "gpt-7.47b"
    from planner.profiling.accuracy.training import gpt_of

    flops = reported_flops(gpt_of(4096, 36, 32, 51200, 2048, "float16"), 512, 2048, recompute=True)
    assert flops / (128 * 142e12) == pytest.approx(row.number_of("derived_iter_time_s"), rel=0.01)


# -- scores


def test_scores() -> None:
    scored = score([comparison(1.0, 1.1), comparison(1.0, 0.8), comparison(2.0, 2.0)])
    assert (scored.n, scored.figure) == (3, "tpot")
    assert scored.mean_ape == pytest.approx(0.1)
    assert scored.median_ape == pytest.approx(0.1)
    assert scored.bias == pytest.approx(-0.1 / 3)
    assert scored.coverage90 == pytest.approx(2 / 3)  # 1.0 is within 1.1 (1 ± 0.1), not within 0.8 (1 ± 0.1)


def test_data_for_programs() -> None:
    table = Table("t", "t.csv", ("a",), tuple(Row(n, n + 1, "t.csv", {"a": str(n)}) for n in (1, 2, 3)))
    outcomes = [
        Skipped(3, "no reason"),
        comparison(1.0, 1.1, row=2),
        comparison(1.0, 1.2, row=1, model="a"),
        comparison(5.0, 5.0, row=1, model="a", figure="ttft"),
    ]
    accuracy = Accuracy.of(table, "serving_silicon", "nothing", outcomes)
    data = accuracy.as_data()
    assert list(data) == ["rows", "overall", "groups", "skipped"]
    assert data["rows"] == 3
    assert [(one["figure"], one["n"]) for one in data["overall"]] == [("ttft", 1), ("tpot", 2)]
    assert list(data["overall"][0]) == ["figure", "n", "mean_ape", "median_ape", "bias", "coverage90"]
    assert [(one["model"], one["figure"]) for one in data["groups"]] == [("a", "ttft"), ("a", "tpot"), ("m", "tpot")]
    assert list(data["groups"][0])[:4] == ["model", "device", "engine", "figure"]
    assert data["skipped"] == [{"row": 3, "why": "no reason"}]


def test_predictions_stand_beside_their_rows(parts: dict[str, Accuracy]) -> None:
    accuracy = parts["trtllm_static_batch_throughput"]
    rows = list(csv.DictReader(io.StringIO(predictions_csv([accuracy]))))
    assert len(rows) == len(accuracy.table.rows)
    assert list(rows[0])[: len(accuracy.table.columns)] == list(accuracy.table.columns)
    for row, source in zip(rows, accuracy.table.rows, strict=True):
        assert {name: row[name] for name in source.fields} == dict(source.fields)
        assert bool(row["skipped"]) != bool(row["predicted_throughput"])
        if row["predicted_throughput"]:
            assert float(row["measured_throughput"]) == pytest.approx(float(row["out_tok_per_s_per_gpu"]), rel=1e-5)
    both = list(csv.DictReader(io.StringIO(predictions_csv([accuracy, parts["training_sailor"]]))))
    assert {row["truth"] for row in both} == {"trtllm_static_batch_throughput", "training_sailor"}
    assert len(both) == len(rows) + len(parts["training_sailor"].table.rows)
