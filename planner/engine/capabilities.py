"""What an engine can be told to run, and what it does where it is told nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.engine.spec import EngineProfile, Task

__all__ = ["check_device", "check_runnable", "default_split"]


def default_split(engine: EngineProfile, num_layers: int, stages: int) -> tuple[int, ...]:
    """Layers per stage where the engine is told nothing.

    Every engine gives each stage the quotient; they differ in who takes the remainder. vLLM hands it out
    backwards from the last stage but one, since the last also has the head; the first, which has the
    embedding, is the last in turn. SGLang gives one each to the last stages, TensorRT-LLM to the first.

    Parameters
    ----------
    engine
        Its `default_split` names the rule.
    num_layers, stages
        At least one layer per stage.

    Returns
    -------
    tuple of int
        Layers per stage, first to last; they sum to `num_layers`.

    Raises
    ------
    InputError
        If there are fewer layers than stages, or no stage.
    UnsupportedError
        If the engine splits evenly only and the layers do not divide.

    Examples
    --------
    >>> from planner.engine import load_engine
    >>> default_split(load_engine("vllm"), 61, 4), default_split(load_engine("sglang"), 61, 4)
    ((15, 15, 16, 15), (15, 15, 15, 16))
    """
    if not 1 <= stages <= num_layers:
        raise InputError(f"{num_layers} layers over {stages} stages", expected="at least one layer on each stage")
    quotient, remainder = divmod(num_layers, stages)
    layers = [quotient] * stages
    if engine.default_split == "remainder_before_last":
        extra = range(stages - 1 - remainder, stages - 1)
    elif engine.default_split == "remainder_last":
        extra = range(stages - remainder, stages)
    elif engine.default_split == "remainder_first":
        extra = range(remainder)
    elif remainder:
        raise UnsupportedError(
            f"{engine.title} splits layers evenly unless told otherwise, and {num_layers} layers do not"
            f" divide over {stages} stages; give the layers per stage explicitly"
        )
    else:
        extra = range(0)
    for stage in extra:
        layers[stage] += 1
    return tuple(layers)


def check_device(engine: EngineProfile, *, vendor: str, compute_capability: str | None) -> str | None:
    """Say why an engine does not run on a GPU; None if it does, or if nobody knows.

    Examples
    --------
    >>> from planner.engine import load_engine
    >>> check_device(load_engine("trtllm"), vendor="AMD", compute_capability=None)
    'TensorRT-LLM does not run on GPUs of AMD'
    """
    if engine.vendors is not None and vendor not in engine.vendors:
        return f"{engine.title} does not run on GPUs of {vendor}"
    oldest = engine.min_compute_capability
    if oldest is not None and compute_capability is not None and float(compute_capability) < oldest:
        return f"{engine.title} needs compute capability {oldest:g}; this GPU has {compute_capability}"
    return None


def check_runnable(
    engine: EngineProfile,
    *,
    tp_per_stage: Sequence[int],
    layers_per_stage: Sequence[int],
    device_types_per_stage: Sequence[str] | None = None,
    task: Task | None = None,
    data_parallel: int = 1,
    expert_parallel: int = 1,
    disaggregated: bool = False,
    context_parallel: int = 1,
    virtual_stages: int = 1,
    zero_stage: int | None = None,
) -> list[str]:
    """Reasons why the engine cannot run one instance; none means that it can.

    Parameters
    ----------
    engine
        The engine asked.
    tp_per_stage, layers_per_stage
        Tensor parallelism and number of layers of each stage, first to last.
    device_types_per_stage
        GPU type of each stage; None where they are all alike.
    task
        What it is wanted for; None leaves that out.
    data_parallel, expert_parallel
        Copies within one deployment, and GPUs that share the experts.
    disaggregated
        Whether prefill and decode run apart.
    context_parallel, virtual_stages, zero_stage
        Of a training run: groups that share a sequence, model chunks of a stage, and what of the state is divided
        (None leaves that out).

    Returns
    -------
    list of str
        One sentence each, with what was asked and what the engine can do.

    Raises
    ------
    InputError
        If the sequences have different lengths or are empty.

    Examples
    --------
    >>> from planner.engine import load_engine
    >>> check_runnable(load_engine("vllm"), tp_per_stage=[4, 2], layers_per_stage=[50, 30])
    ['vLLM has one TP for all stages of an instance; this one has 4, 2']
    """
    types = ["all alike"] * len(tp_per_stage) if device_types_per_stage is None else list(device_types_per_stage)
    stages = len(tp_per_stage)
    if not stages or len(layers_per_stage) != stages or len(types) != stages:
        raise InputError(
            f"{stages} TP sizes, {len(layers_per_stage)} layer counts and {len(types)} GPU types",
            expected="one of each for every stage, and at least one stage",
        )
    reasons: list[str] = []
    if task is not None and task not in engine.tasks:
        reasons.append(f"{engine.title} is offered for {' and '.join(engine.tasks)}, not for {task}")
    if stages > 1 and not engine.pipeline:
        reasons.append(f"{engine.title} has no pipeline stages; this instance has {stages}")
    if engine.max_pipeline is not None and stages > engine.max_pipeline:
        reasons.append(f"{engine.title} has at most {engine.max_pipeline} stages; this instance has {stages}")
    if engine.tensor_parallel == "uniform" and len(set(tp_per_stage)) > 1:
        sizes = ", ".join(str(size) for size in tp_per_stage)
        reasons.append(f"{engine.title} has one TP for all stages of an instance; this one has {sizes}")
    reasons += _layer_reasons(engine, list(layers_per_stage))
    if not engine.mixed_gpu_types and len(set(types)) > 1:
        names = ", ".join(dict.fromkeys(types))
        reasons.append(f"{engine.title} wants one GPU type in an instance; this one has {names}")
    if data_parallel > 1 and not engine.data_parallel:
        reasons.append(f"{engine.title} has no data parallelism; {data_parallel} copies were asked for")
    if expert_parallel > 1 and not engine.expert_parallel:
        reasons.append(f"{engine.title} has no expert parallelism; {expert_parallel} ways were asked for")
    if disaggregated and not engine.disaggregation:
        reasons.append(f"{engine.title} cannot run prefill and decode apart")
    if context_parallel > 1 and not engine.context_parallel:
        reasons.append(f"{engine.title} has no context parallelism; {context_parallel} ways were asked for")
    if virtual_stages > 1 and not engine.interleaving:
        reasons.append(f"{engine.title} does not interleave; {virtual_stages} virtual stages were asked for")
    if zero_stage is not None and zero_stage not in engine.zero_stages:
        reasons.append(f"{engine.title} has no ZeRO {zero_stage}")
    elif stages > 1 and zero_stage is not None and zero_stage not in engine.pipelined_zero_stages:
        reasons.append(f"{engine.title} has ZeRO {zero_stage} without pipeline stages only; this instance has {stages}")
    return reasons


def _layer_reasons(engine: EngineProfile, layers: list[int]) -> list[str]:
    """Say what is wrong with the layers per stage."""
    written = ", ".join(str(count) for count in layers)
    if min(layers) < 1:
        return [f"every stage needs a layer; this instance has {written}"]
    if engine.uneven_layers:
        return []
    if engine.default_split == "even_only":
        even = len(set(layers)) == 1
        return [] if even else [f"{engine.title} splits layers evenly only; this instance has {written}"]
    split = default_split(engine, sum(layers), len(layers))
    if tuple(layers) == split:
        return []
    expected = ", ".join(str(count) for count in split)
    return [f"{engine.title} cannot be told its layers per stage and would take {expected}, not {written}"]
