"""What an engine is to be told, under its own names; what its profile has no name for is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from planner.engine.capabilities import default_split
from planner.engine.chunks import chunk_sizes
from planner.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from planner.engine.spec import EngineProfile

__all__ = ["megatron_layout", "serving_arguments", "training_arguments"]

Arguments = dict[str, int | float | str]

_CONTEXT_STEP: Final = 256  # the context limit is rounded up to a whole number of these

# What engines are told of a replica that does a part of a request. vLLM 0.33.0 docs/features/disagg_prefill: a KV
# connector (NIXL between nodes) and who produces KV caches; SGLang's server: its mode.
_ROLES: Final = {
    "--kv-transfer-config": {
        "prefill": '{"kv_connector":"NixlConnector","kv_role":"kv_producer"}',
        "decode": '{"kv_connector":"NixlConnector","kv_role":"kv_consumer"}',
    },
    "--disaggregation-mode": {"prefill": "prefill", "decode": "decode"},
}

# Options of Megatron-Core's training script, and of engines told in the same way, that a profile need not name.
_MEGATRON: Final = {
    "micro_batch": "--micro-batch-size",
    "global_batch": "--global-batch-size",
    "sequence_length": "--seq-length",
    "positions": "--max-position-embeddings",
    "bf16": "--bf16",
    "fp16": "--fp16",
    "fp32_gradients": "--accumulate-allreduce-grads-in-fp32",
    "recompute_method": "--recompute-method",
    "recompute_layers": "--recompute-num-layers",
    "distributed_optimizer": "--use-distributed-optimizer",
    "fsdp": "--use-megatron-fsdp",
    "sharding": "--data-parallel-sharding-strategy",
}

# What torchtitan names a schedule, and modules beside the layers.
_SCHEDULES: Final = ("1F1B", "Interleaved1F1B")
_FIRST, _LAST = ("tok_embeddings",), ("norm", "output")


def serving_arguments(
    engine: EngineProfile,
    *,
    tp_per_stage: Sequence[int],
    layers_per_stage: Sequence[int],
    concurrency: int,
    longest: float,
    max_context: int,
    role: Literal["both", "prefill", "decode"] = "both",
) -> Arguments:
    """Arguments of one serving instance.

    Parameters
    ----------
    engine
        Names them.
    tp_per_stage, layers_per_stage
        TP and number of layers of each stage; the layers are told only where the engine would split them otherwise.
    concurrency
        Requests in flight at most.
    longest, max_context
        Tokens of the longest request, and the model's limit.
    role
        Whether it prefills and decodes, or does one of the two.

    Examples
    --------
    >>> from planner.engine import load_engine
    >>> told = serving_arguments(load_engine("vllm"), tp_per_stage=[4, 4], layers_per_stage=[39, 41],
    ...                          concurrency=8, longest=1000, max_context=8192)
    >>> told["--tensor-parallel-size"], told["VLLM_PP_LAYER_PARTITION"], told["--max-model-len"]
    (4, '39,41', 1024)
    """
    values: Arguments = {
        "tensor_parallel": _one_or_all(tp_per_stage),
        "pipeline_parallel": len(tp_per_stage),
        "memory_fraction": engine.memory_fraction.value,
        "chunk_tokens": engine.serving_defaults().chunk_tokens.value,
        "max_sequences": concurrency,
        "max_context": min(math.ceil(longest / _CONTEXT_STEP) * _CONTEXT_STEP, max_context),
    }
    if len(layers_per_stage) > 1 and not _is_default(engine, tuple(layers_per_stage)):
        values["layer_split"] = ",".join(map(str, layers_per_stage))
    if role != "both" and engine.arguments.get("disaggregation") in _ROLES:
        values["disaggregation"] = _ROLES[engine.arguments["disaggregation"]][role]
    return {engine.arguments[key]: value for key, value in values.items() if key in engine.arguments}


def training_arguments(
    engine: EngineProfile,
    *,
    tp_per_stage: Sequence[int],
    layers_per_stage: Sequence[int],
    microbatch_size: int,
    global_batch: int,
    sequence_length: int,
    max_context: int,
    precision: Literal["bf16", "fp16"],
    sequence_parallel: bool,
    recompute: str,
    zero_stage: int,
    virtual_stages: int = 1,
    context_parallel: int = 1,
    expert_parallel: int = 1,
    data_parallel: int = 1,
) -> Arguments:
    """Arguments of a training job; an empty value is a flag that takes none. Without names nothing is told.

    Parameters
    ----------
    engine
        Names them.
    tp_per_stage, layers_per_stage
        TP and number of layers of each stage.
    microbatch_size, global_batch, sequence_length, zero_stage
        The batch: sequences per microbatch and per iteration, and tokens of one.
    max_context
        Positions that the model was made for; longer sequences need as many as they have tokens.
    precision
        Format to compute in. Gradients are added up in fp32: Megatron-Core does so by itself for bf16 only.
    sequence_parallel, recompute, virtual_stages, context_parallel, expert_parallel
        Of the schedule. A layout names the chunks of an interleaved pipeline; how many there are follows from it.
    data_parallel
        Ranks with sequences of their own: groups of a stage over context parallelism.
    """
    values: Arguments = {
        "tensor_parallel": _one_or_all(tp_per_stage),
        "pipeline_parallel": len(tp_per_stage),
        "micro_batch": microbatch_size,
        "global_batch": global_batch,
        "sequence_length": sequence_length,
        "positions": max(max_context, sequence_length),
        precision: "",
    }
    if precision == "fp16":
        values["fp32_gradients"] = ""
    if len(tp_per_stage) > 1:
        values["layer_split"] = megatron_layout(layers_per_stage, virtual_stages)
    if context_parallel > 1:
        values["context_parallel"] = context_parallel
    if expert_parallel > 1:
        values["expert_parallel"] = expert_parallel
    if sequence_parallel:
        values["sequence_parallel"] = ""
    if recompute != "none":
        values["recompute"] = recompute
    if recompute == "full":
        values |= {"recompute_method": "uniform", "recompute_layers": 1}
    if zero_stage >= 1:
        values["distributed_optimizer"] = ""
    if zero_stage >= 2:
        values |= {"fsdp": "", "sharding": "optim_grads" if zero_stage == 2 else "optim_grads_params"}
    names = engine.arguments
    if "module_lists" in names:
        values = _torchtitan(values, layers_per_stage, microbatch_size, zero_stage, virtual_stages, data_parallel)
        return {names[key]: value for key, value in values.items()}
    return {(names | _MEGATRON)[key]: value for key, value in values.items()} if names else {}


def _torchtitan(
    told: Arguments,
    layers: Sequence[int],
    microbatch_size: int,
    zero_stage: int,
    virtual_stages: int,
    data_parallel: int,
) -> Arguments:
    """Do as `training_arguments` for torchtitan: its batch is that of a rank, its stages are lists of modules."""
    stages, batch = len(layers), told["global_batch"]
    same = (
        "tensor_parallel",
        "pipeline_parallel",
        "context_parallel",
        "expert_parallel",
        "sequence_length",
        "recompute",
    )
    values: Arguments = {key: told[key] for key in same if key in told}
    values |= {
        "global_batch": batch,
        "shard_degree": data_parallel,
        "reshard": "always" if zero_stage == 3 else "never",
    }
    values["local_batch"] = microbatch_size
    if stages > 1:
        sizes = chunk_sizes(layers, virtual_stages)
        lists: list[list[str]] = []
        first = 0
        for size in (stage[v] for v in range(virtual_stages) for stage in sizes):
            lists.append([f"layers.{layer}" for layer in range(first, first + size)])
            first += size
        lists[0][:0] = _FIRST
        lists[-1] += _LAST
        values |= {
            "local_batch": int(batch) // data_parallel,
            "pipeline_microbatch": microbatch_size,
            "schedule": _SCHEDULES[virtual_stages > 1],
            "module_lists": json.dumps(lists),
        }
    return values


def megatron_layout(layers: Sequence[int], virtual_stages: int = 1) -> str:
    """Pipeline layout as Megatron-Core reads it: E embedding, t transformer layer, L loss, chunks between bars.

    Parameters
    ----------
    layers
        Of each stage.
    virtual_stages
        Chunks of each stage; the layout goes through the first chunk of every stage, then the second of every stage.

    Examples
    --------
    >>> megatron_layout([26, 22, 20, 12])
    'Et*26|t*22|t*20|t*12,L'
    >>> megatron_layout([3, 3], 2)
    'Et*1|t*2|t*2|t*1,L'
    """
    sizes = chunk_sizes(layers, virtual_stages)
    parts = [f"t*{stage[v]}" if stage[v] else "" for v in range(virtual_stages) for stage in sizes]
    parts[0] = "E" + parts[0]
    parts[-1] += ",L" if parts[-1] else "L"
    return "|".join(parts)


def _one_or_all(degrees: Sequence[int]) -> int | str:
    return degrees[0] if len(set(degrees)) == 1 else ",".join(map(str, degrees))


def _is_default(engine: EngineProfile, layers: tuple[int, ...]) -> bool:
    try:
        return default_split(engine, sum(layers), len(layers)) == layers
    except (InputError, UnsupportedError):
        return False
