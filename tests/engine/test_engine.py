"""Engine profiles: what ships, how each engine splits layers, what it refuses, and what it leaves for KV."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.engine import (
    EngineProfile,
    check_runnable,
    default_split,
    list_engines,
    load_engine,
    megatron_layout,
    memory_budget,
    training_arguments,
)
from planner.errors import InputError, UnsupportedError
from planner.resources import resource_dir

ENGINES = ("generic", "megatron", "sglang", "torchtitan", "trtllm", "vllm")
GIB = 2.0**30


def test_shipped_engines() -> None:
    assert list_engines() == ENGINES


@pytest.mark.parametrize("name", ENGINES)
def test_each_profile_loads_under_its_own_name_with_labelled_numbers(name: str) -> None:
    engine = load_engine(name)
    assert engine.name == name
    assert engine.kind in ("spec", "estimated")
    assert ("serving" in engine.tasks) == (engine.serving is not None)
    figures = [
        engine.overhead.iteration,
        engine.overhead.layer,
        engine.memory_fraction,
        engine.reserved_memory,
    ]
    assert all(figure.source and figure.date.startswith("2026") for figure in figures)
    assert all(figure.error is not None for figure in figures if figure.kind == "fitted")


def test_an_engines_file_may_name_a_fit_or_write_its_overheads(tmp_path: Path) -> None:
    """The constants themselves are held to the fit in tests/profiling/test_fit_serving.py."""
    shipped = load_engine("vllm")
    written = tmp_path / "own.yaml"
    written.write_text(yaml.safe_dump(_edited(("title",), "mine")), encoding="utf-8")
    assert load_engine(written).overhead == shipped.overhead
    named = tmp_path / "named.yaml"
    named.write_text(yaml.safe_dump(_edited(("overhead",), "serving")), encoding="utf-8")
    assert load_engine(named).overhead == shipped.overhead
    named.write_text(yaml.safe_dump(_edited(("overhead",), "nobody")), encoding="utf-8")
    with pytest.raises(InputError, match=r"nobody\.yaml: no such file"):
        load_engine(named)


splits = st.integers(1, 160).flatmap(lambda layers: st.tuples(st.just(layers), st.integers(1, layers)))


@settings(deadline=None, max_examples=300)
@given(split=splits, name=st.sampled_from(ENGINES))
def test_default_split_holds_every_layer_and_no_stage_is_empty(split: tuple[int, int], name: str) -> None:
    num_layers, stages = split
    engine = load_engine(name)
    if engine.default_split == "even_only" and num_layers % stages:
        with pytest.raises(UnsupportedError, match="do not divide"):
            default_split(engine, num_layers, stages)
        return
    layers = default_split(engine, num_layers, stages)
    assert len(layers) == stages
    assert sum(layers) == num_layers
    assert min(layers) >= 1
    assert max(layers) - min(layers) <= 1
    assert check_runnable(engine, tp_per_stage=[1] * stages, layers_per_stage=layers) == []


@pytest.mark.parametrize(
    ("name", "num_layers", "stages", "expected"),
    [
        ("vllm", 61, 2, (31, 30)),
        ("vllm", 61, 4, (15, 15, 16, 15)),
        ("vllm", 62, 4, (15, 16, 16, 15)),
        ("vllm", 63, 4, (16, 16, 16, 15)),
        ("vllm", 80, 3, (27, 27, 26)),
        ("sglang", 61, 4, (15, 15, 15, 16)),
        ("sglang", 80, 3, (26, 27, 27)),
        ("trtllm", 61, 4, (16, 15, 15, 15)),
        ("megatron", 80, 4, (20, 20, 20, 20)),
    ],
)
def test_default_split_follows_the_engine(name: str, num_layers: int, stages: int, expected: tuple[int, ...]) -> None:
    assert default_split(load_engine(name), num_layers, stages) == expected


@pytest.mark.parametrize(("num_layers", "stages"), [(3, 4), (3, 0), (0, 1)])
def test_default_split_refuses_empty_stages(num_layers: int, stages: int) -> None:
    with pytest.raises(InputError, match=f"{num_layers} layers over {stages} stages"):
        default_split(load_engine("vllm"), num_layers, stages)


def _changed(name: str, **changes: object) -> EngineProfile:
    return EngineProfile.model_validate(load_engine(name).model_dump() | changes)


@pytest.mark.parametrize(
    ("engine", "arguments", "reasons"),
    [
        (
            load_engine("vllm"),
            {"tp_per_stage": [4, 2]},
            ["one TP for all stages of an instance; this one has 4, 2"],
        ),
        (load_engine("generic"), {"tp_per_stage": [4, 2]}, []),
        (load_engine("vllm"), {"layers_per_stage": [50, 30]}, []),
        (load_engine("vllm"), {"device_types_per_stage": ["a100", "l4"]}, []),
        (load_engine("trtllm"), {"device_types_per_stage": ["a100", "l4"]}, ["one GPU type in an instance"]),
        (
            load_engine("vllm"),
            {"layers_per_stage": [80, 0]},
            ["every stage needs a layer; this instance has 80, 0"],
        ),
        (load_engine("vllm"), {"task": "training"}, ["offered for serving, not for training"]),
        (
            load_engine("megatron"),
            {"task": "serving", "disaggregated": True},
            ["not for serving", "decode apart"],
        ),
        (_changed("vllm", pipeline=False), {}, ["no pipeline stages; this instance has 2"]),
        (_changed("vllm", max_pipeline=1), {}, ["at most 1 stages; this instance has 2"]),
        (_changed("vllm", data_parallel=False), {"data_parallel": 2}, ["no data parallelism; 2 copies"]),
        (_changed("vllm", expert_parallel=False), {"expert_parallel": 8}, ["no expert parallelism; 8 ways"]),
        (
            _changed("vllm", uneven_layers=False),
            {"layers_per_stage": [50, 30]},
            ["cannot be told its layers per stage and would take 40, 40, not 50, 30"],
        ),
        (
            _changed("megatron", uneven_layers=False),
            {"layers_per_stage": [50, 30]},
            ["splits layers evenly only; this instance has 50, 30"],
        ),
        (_changed("megatron", context_parallel=False), {"context_parallel": 2}, ["no context parallelism; 2 ways"]),
        (_changed("megatron", interleaving=False), {"virtual_stages": 2}, ["does not interleave; 2 virtual stages"]),
        (load_engine("megatron"), {"zero_stage": 3}, ["ZeRO 3 without pipeline stages only; this instance has 2"]),
        (load_engine("torchtitan"), {"zero_stage": 1}, ["torchtitan has no ZeRO 1"]),
        (load_engine("torchtitan"), {"zero_stage": 3, "virtual_stages": 4}, []),
        (
            load_engine("trtllm"),
            {"tp_per_stage": [4, 2], "device_types_per_stage": ["a100", "l4"]},
            ["one TP", "one GPU type in an instance; this one has a100, l4"],
        ),
    ],
)
def test_check_runnable(engine: EngineProfile, arguments: dict[str, object], reasons: list[str]) -> None:
    plan: dict[str, object] = {"tp_per_stage": [2, 2], "layers_per_stage": [40, 40]}
    found = check_runnable(engine, **(plan | arguments))  # type: ignore[arg-type]
    assert len(found) == len(reasons)
    assert all(part in sentence for part, sentence in zip(reasons, found, strict=True))


def test_check_runnable_wants_one_value_a_stage() -> None:
    with pytest.raises(InputError, match="2 TP sizes, 1 layer counts"):
        check_runnable(load_engine("vllm"), tp_per_stage=[1, 1], layers_per_stage=[80])
    with pytest.raises(InputError, match="at least one stage"):
        check_runnable(load_engine("vllm"), tp_per_stage=[], layers_per_stage=[])


def test_memory_budget_follows_each_engines_rule() -> None:
    memory, weights, activations = 80 * GIB, 40 * GIB, 2 * GIB

    def left(name: str) -> float:
        return memory_budget(load_engine(name), memory, activations).cache(weights)

    assert left("vllm") == pytest.approx((0.92 * 80 - 1 - 40 - 2) * GIB)
    assert left("sglang") == pytest.approx((0.88 * 80 - 40) * GIB)
    reserved = load_engine("trtllm").reserved_memory.value
    assert left("trtllm") == pytest.approx(0.9 * ((80 - 40 - 2) * GIB - reserved))


def test_static_rule_yields_to_large_activations() -> None:
    budget = memory_budget(load_engine("sglang"), 80 * GIB, 12 * GIB)
    assert budget.cache(40 * GIB) == pytest.approx((80 - 1 - 40 - 12) * GIB)


@pytest.mark.parametrize("name", ENGINES)
def test_memory_budget_is_negative_where_weights_do_not_fit(name: str) -> None:
    budget = memory_budget(load_engine(name), 80 * GIB, GIB)
    assert budget.cache(10 * GIB) > budget.cache(40 * GIB) > 0 > budget.cache(90 * GIB)
    assert budget.limit <= 80 * GIB


def test_an_engine_that_does_not_serve_says_so() -> None:
    assert load_engine("vllm").serving_defaults().chunk_tokens.value == 2048
    with pytest.raises(UnsupportedError, match="offered for training"):
        load_engine("megatron").serving_defaults()


def _profile() -> dict[str, object]:
    text = (resource_dir("profiles") / "engines" / "vllm.yaml").read_text(encoding="utf-8")
    data: dict[str, object] = yaml.safe_load(text)
    return data | {"overhead": load_engine("vllm").overhead.model_dump()}  # written out, as a user would


def _edited(path: tuple[str, ...], value: object) -> dict[str, object]:
    data = _profile()
    inner: dict[str, object] = data
    for key in path[:-1]:
        step = inner[key]
        assert isinstance(step, dict)
        inner = step
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tensor_parallel",), "both"),
        (("default_split",), "random"),
        (("colour",), "blue"),
        (("tasks",), []),
        (("overhead", "iteration", "value"), -1),
        (("overhead", "iteration", "value"), float("inf")),
        (("overhead", "iteration", "source"), None),
        (("overhead", "layer", "kind"), "guessed"),
        (("overhead", "layer", "date"), "last year"),
        (("overhead", "prompt"), None),
        (("memory_fraction",), {"value": 1.2, "kind": "spec", "source": "test", "date": "2026-11"}),
        (("serving", "chunk_tokens", "value"), 0),
        (("serving", "block_tokens", "value"), 1.5),
    ],
)
def test_bad_fields_are_named(tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(yaml.safe_dump(_edited(path, value)), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_engine(file)
    assert caught.value.field == ".".join(path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML"),
        ("- a\n- b\n", "holds no fields"),
        ("", "holds no fields"),
        ("a\x00b", "not YAML"),
    ],
)
def test_files_that_are_no_profiles(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_engine(file)


def test_own_profile_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(_profile() | {"name": "mine"}), encoding="utf-8")
    assert load_engine(file).name == "mine"


def test_names_and_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown engine 'vlm'") as caught:
        load_engine("vlm")
    assert caught.value.hint == "vllm"
    with pytest.raises(InputError, match="no such file"):
        load_engine(tmp_path / "absent.yaml")


def _told(name: str, **more: object) -> dict[str, int | float | str]:
    facts: dict[str, object] = {
        "tp_per_stage": [2, 2],
        "layers_per_stage": [3, 3],
        "microbatch_size": 1,
        "global_batch": 32,
        "sequence_length": 4096,
        "max_context": 8192,
        "precision": "bf16",
        "sequence_parallel": True,
        "recompute": "none",
        "zero_stage": load_engine(name).default_zero_stage,
    }
    return training_arguments(load_engine(name), **(facts | more))  # type: ignore[arg-type]


def test_megatron_is_told_degrees_chunks_and_division() -> None:
    told = _told("megatron", virtual_stages=2, context_parallel=2, expert_parallel=4)
    assert told["--pipeline-model-parallel-layout"] == "Et*1|t*2|t*2|t*1,L"
    assert told["--context-parallel-size"] == 2 and told["--expert-model-parallel-size"] == 4
    alone = {"tp_per_stage": [2], "layers_per_stage": [6]}
    assert "--use-megatron-fsdp" not in _told("megatron", **alone)
    for zero, strategy in ((2, "optim_grads"), (3, "optim_grads_params")):
        told = _told("megatron", zero_stage=zero, **alone)
        assert told["--data-parallel-sharding-strategy"] == strategy and told["--use-megatron-fsdp"] == ""
    # a chunk may hold the embedding alone, or the loss
    assert megatron_layout([1, 2, 1], 2) == "E|t*1|t*1|t*1|t*1|L"


def test_torchtitan_is_told_modules_by_name() -> None:
    told = _told("torchtitan", data_parallel=4, virtual_stages=3)
    assert told["--parallelism.pipeline_parallel_schedule"] == "Interleaved1F1B"
    lists = json.loads(str(told["--parallelism.module_fqns_per_model_part"]))
    assert (
        len(lists) == 6 and lists[0] == ["tok_embeddings", "layers.0"] and lists[-1] == ["layers.5", "norm", "output"]
    )
    assert [name for part in lists for name in part if name.startswith("layers.")] == [f"layers.{n}" for n in range(6)]
    assert told["--training.local_batch_size"] == 8 and told["--parallelism.pipeline_parallel_microbatch_size"] == 1
    assert told["--parallelism.data_parallel_shard_degree"] == 4
    alone = _told(
        "torchtitan", tp_per_stage=[2], layers_per_stage=[6], microbatch_size=2, zero_stage=2, data_parallel=4
    )
    assert alone["--training.local_batch_size"] == 2
    assert alone["--parallelism.fsdp_reshard_after_forward"] == "never"
    assert "--parallelism.pipeline_parallel_schedule" not in alone
