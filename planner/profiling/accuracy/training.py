"""Uniform training plans as published tables describe them, priced one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from planner.cluster import Cluster, ClusterSpec, DeviceProfile
from planner.cost.memory import tensor_parallel_fault
from planner.cost.training import predict_training
from planner.cost.training_options import PLAIN, RunOptions
from planner.cost.training_replica import PlacedTrainingStage
from planner.engine import EngineProfile, load_engine
from planner.model import ModelSpec, model_from_config
from planner.plan import Schedule, TrainingJob
from planner.profiling.accuracy.records import SkipRowError
from planner.profiling.accuracy.table import Row

__all__ = [
    "Recompute",
    "Run",
    "Setting",
    "engine_with",
    "even_layers",
    "fastest_that_fits",
    "gpt_of",
    "price",
    "reported_flops",
    "run_cluster",
    "untold",
]

_MICROBATCHES: Final = (1, 2, 4, 8)
_CHUNKS: Final = (1, 2, 3)  # MLSys 2023 interleaves 3 deep where 12 layers of a stage would allow 12

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
    zero_stage, recompute, sequence_parallel, virtual_stages, context_parallel
        See `planner.plan.TrainingJob` and `planner.plan.Schedule`; `dp` does not count the GPUs that share a sequence.
    options
        See `planner.cost.training_options`.
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
    zero_stage: Literal[0, 1, 2, 3] = 0
    recompute: Recompute = "none"
    sequence_parallel: bool = False
    virtual_stages: int = 1
    context_parallel: int = 1
    options: RunOptions = PLAIN


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


def engine_with(constants: Mapping[str, float] | None, name: str = "megatron") -> EngineProfile:
    """The engine with other constants of its training runs; None: its own."""
    engine = _engine(name)
    if constants is None:
        return engine
    return engine.model_copy(update={"training": engine.training.with_values(constants)})


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
    """Equal stages; embedding and head may count as a layer each.

    Raises
    ------
    SkipRowError
        If the layers do not divide.
    """
    if layers % stages and (layers + 2) % stages == 0:
        each = (layers + 2) // stages
        return (each - 1, *(each,) * (stages - 2), each - 1)
    if layers % stages:
        raise SkipRowError(f"{layers} layers do not divide by {stages} stages, and row {row.number} has no split")
    return (layers // stages,) * stages


@lru_cache(maxsize=64)
def run_cluster(device: str, nodes: int, gpus_per_node: int, nic: float) -> Cluster:
    """Nodes of a published run: GPUs of one type, and the bytes/s that a node has of the network."""
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


def price(setting: Setting, engine: EngineProfile | None = None) -> Run:
    """Price a run: ranks in Megatron's order, tensor fastest, then context, data, pipeline.

    Parameters
    ----------
    setting
        The run.
    engine
        Under which constants; None: Megatron-Core as it ships.

    Raises
    ------
    SkipRowError
        If the batch does not divide, or tensor parallelism is not legal for the model.
    """
    profile = _engine("megatron") if engine is None else engine
    tp, groups, stages = setting.tp, setting.dp * setting.context_parallel, len(setting.layers)
    per_step = setting.dp * setting.microbatch
    if setting.global_batch % per_step:
        raise SkipRowError(f"a batch of {setting.global_batch} does not divide by {per_step} sequences at a time")
    fault = tensor_parallel_fault(setting.model, tp)
    if fault is not None:
        raise SkipRowError(fault)
    gpus = tp * groups * stages
    cluster = run_cluster(
        setting.device.name, -(-gpus // setting.gpus_per_node), min(gpus, setting.gpus_per_node), setting.nic
    )
    placed, first = [], 0
    for s, layers in enumerate(setting.layers):
        placed.append(
            PlacedTrainingStage(
                devices=cluster.gpus[s * groups * tp : (s + 1) * groups * tp],
                layers=(first, first + layers),
                tp=tp,
                dp=groups,
                microbatch_shares=(setting.microbatch,) * groups,
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
        virtual_stages=setting.virtual_stages,
        context_parallel=setting.context_parallel,
    )
    prediction = predict_training(setting.model, cluster, profile, job, placed, schedule, setting.options)
    stated, memory = prediction.figures["iteration_time"], prediction.figures["memory_peak"]
    return Run(
        seconds=prediction.iteration_time,
        seconds_error=stated.error,
        memory_S=tuple(figure.value - profile.reserved_memory.value for figure in prediction.memory_S),
        memory_error=memory.error,
        fits=all(figure.value <= limit for figure, limit in zip(prediction.memory_S, prediction.limit_S, strict=True)),
    )


def untold(setting: Setting, microbatches: Sequence[int] = _MICROBATCHES) -> tuple[Setting, ...]:
    """Ways in which a run may have been made whose microbatch and schedule are not told.

    Those are the usual microbatches, and as few model chunks as published tables of the time use that name them.
    """
    stages, layers = len(setting.layers), setting.layers[0]
    sizes = [size for size in microbatches if setting.global_batch % (setting.dp * size) == 0]
    chunks = [v for v in _CHUNKS if layers % v == 0] if stages > 1 else [1]
    return tuple(
        replace(setting, microbatch=size, virtual_stages=v)
        for size in sizes
        for v in chunks
        if v == 1 or setting.global_batch // (setting.dp * size) % stages == 0
    )


def fastest_that_fits(settings: Sequence[Setting], engine: EngineProfile | None = None) -> tuple[Setting, Run]:
    """Price a run whose microbatch or schedule is not told: of the usual ones that fit the memory, the fastest.

    Where the microbatch is told, a run that should not fit was nevertheless made: then the fastest of all.

    Raises
    ------
    SkipRowError
        If none fits.
    """
    runs = [(setting, price(setting, engine)) for setting in settings]
    told = len({setting.microbatch for setting in settings}) == 1
    legal = [pair for pair in runs if pair[1].fits] or (runs if told else [])
    if not legal:
        raise SkipRowError("no usual microbatch fits the memory")
    return min(legal, key=lambda pair: pair[1].seconds)


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
