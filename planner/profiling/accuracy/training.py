"""Uniform training plans as published tables describe them, priced one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from planner.cluster import Cluster, ClusterSpec, DeviceProfile
from planner.cost.memory import tensor_parallel_fault
from planner.cost.training import predict_training
from planner.cost.training_replica import PlacedTrainingStage
from planner.engine import EngineProfile, load_engine
from planner.model import ModelSpec, model_from_config
from planner.plan import Schedule, TrainingJob
from planner.profiling.accuracy.records import SkipRowError
from planner.profiling.accuracy.table import Row

__all__ = ["Run", "Setting", "even_layers", "fastest_that_fits", "gpt_of", "price", "reported_flops"]

_MICROBATCHES: Final = (1, 2, 4, 8)

Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A training run with the same parallelism throughout.

    Parameters
    ----------
    model, device
        What is trained, and on what.
    gpus_per_node, nic
        The nodes, and bytes/s that one of them sends.
    tp, dp
        Parallelism.
    layers
        Transformer layers of each pipeline stage.
    global_batch, sequence_length, microbatch
        Sequences of an iteration, their tokens, and sequences of a microbatch.
    zero_stage, recompute, sequence_parallel
        See `planner.plan.TrainingJob` and `planner.plan.Schedule`.
    """

    model: ModelSpec
    device: DeviceProfile
    gpus_per_node: int
    nic: float
    tp: int
    dp: int
    layers: tuple[int, ...]
    global_batch: int
    sequence_length: int
    microbatch: int
    zero_stage: Literal[0, 1] = 0
    recompute: Recompute = "none"
    sequence_parallel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run is predicted to do.

    Parameters
    ----------
    seconds, seconds_error
        Of an iteration.
    memory_S, memory_error
        Bytes on a GPU of each stage, without what the engine reserves, which published tables leave out.
    fits
        Whether every stage stays within its GPUs' memory.
    """

    seconds: float
    seconds_error: float
    memory_S: tuple[float, ...]
    memory_error: float
    fits: bool


@lru_cache(maxsize=4)
def _engine(name: str) -> EngineProfile:
    return load_engine(name)


@lru_cache(maxsize=64)
def gpt_of(hidden: int, layers: int, heads: int, vocab: int, length: int, dtype: str) -> ModelSpec:
    """A GPT as Megatron-LM trains it, from the numbers of a table."""
    fields = {
        "model_type": "gpt2",
        "n_embd": hidden,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": length,
        "vocab_size": vocab,
        "torch_dtype": dtype,
    }
    model = model_from_config(fields, name="gpt", source="the row")
    return replace(model, name=f"gpt-{model.params / 1e9:.3g}b")


def even_layers(row: Row, layers: int, stages: int) -> tuple[int, ...]:
    """Equal stages.

    Raises
    ------
    SkipRowError
        If the layers do not divide.
    """
    if layers % stages:
        raise SkipRowError(f"{layers} layers do not divide by {stages} stages, and row {row.number} has no split")
    return (layers // stages,) * stages


@lru_cache(maxsize=64)
def _cluster(device: str, nodes: int, gpus_per_node: int, nic: float) -> Cluster:
    spec = ClusterSpec.model_validate(
        {
            "name": "truth",
            "description": "the nodes of a measured run",
            "source": "the row",
            "kind": "reconstructed",
            "date": "2026-11",
            "nodes": [
                {
                    "name": "node",
                    "count": nodes,
                    "gpu": device,
                    "gpus_per_node": gpus_per_node,
                    "nic": {"bandwidth": nic, "latency": 5e-6},
                }
            ],
        }
    )
    return Cluster.from_spec(spec, source="truth", sha256="")


def price(setting: Setting, engine: str = "megatron") -> Run:
    """Price a run: ranks in Megatron's order, tensor fastest, then data, then pipeline.

    Raises
    ------
    SkipRowError
        If the batch does not divide, or tensor parallelism is not legal for the model.
    """
    tp, dp, stages = setting.tp, setting.dp, len(setting.layers)
    per_step = dp * setting.microbatch
    if setting.global_batch % per_step:
        raise SkipRowError(f"a batch of {setting.global_batch} does not divide by {per_step} sequences at a time")
    fault = tensor_parallel_fault(setting.model, tp)
    if fault is not None:
        raise SkipRowError(fault)
    gpus = tp * dp * stages
    cluster = _cluster(
        setting.device.name, -(-gpus // setting.gpus_per_node), min(gpus, setting.gpus_per_node), setting.nic
    )
    placed, first = [], 0
    for s, layers in enumerate(setting.layers):
        placed.append(
            PlacedTrainingStage(
                devices=cluster.gpus[s * dp * tp : (s + 1) * dp * tp],
                layers=(first, first + layers),
                tp=tp,
                dp=dp,
                microbatch_shares=(setting.microbatch,) * dp,
            )
        )
        first += layers
    job = TrainingJob(
        global_batch=setting.global_batch, sequence_length=setting.sequence_length, zero_stage=setting.zero_stage
    )
    schedule = Schedule(
        microbatch_size=setting.microbatch,
        microbatches=setting.global_batch // per_step,
        recompute=setting.recompute,
        sequence_parallel=setting.sequence_parallel,
    )
    profile = _engine(engine)
    prediction = predict_training(setting.model, cluster, profile, job, placed, schedule)
    stated, memory = prediction.figures["iteration_time"], prediction.figures["memory_peak"]
    return Run(
        seconds=prediction.iteration_time,
        seconds_error=stated.error,
        memory_S=tuple(figure.value - profile.reserved_memory.value for figure in prediction.memory_S),
        memory_error=memory.error,
        fits=all(figure.value <= limit for figure, limit in zip(prediction.memory_S, prediction.limit_S, strict=True)),
    )


def fastest_that_fits(setting: Setting, microbatches: Sequence[int] = _MICROBATCHES) -> Run:
    """Price a run whose microbatch is not told: of the usual ones that fit the memory, the fastest.

    Raises
    ------
    SkipRowError
        If none fits.
    """
    legal = [size for size in microbatches if setting.global_batch % (setting.dp * size) == 0]
    runs = [run for size in legal if (run := price(replace(setting, microbatch=size))).fits]
    if not runs:
        raise SkipRowError(f"no microbatch of {', '.join(map(str, legal)) or 'any usual size'} fits the memory")
    return min(runs, key=lambda run: run.seconds)


def reported_flops(model: ModelSpec, batch: int, length: int, *, recompute: bool) -> float:
    """FLOPs of an iteration as Megatron-LM's tables count them: attention not halved by its mask.

    References
    ----------
    D. Narayanan et al., SC 2021, section 5.1, equation 3: ``96 B s l h^2 (1 + s / 6h + V / 16 l h)`` with full
    recomputation; three quarters of the layers' part without.
    """
    layers, hidden = model.num_layers, model.hidden
    passes = 4.0 if recompute else 3.0
    inside = passes * 24.0 * layers * hidden**2 * (1 + length / (6.0 * hidden))
    return batch * length * (inside + 6.0 * hidden * model.vocab)
