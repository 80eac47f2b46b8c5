"""What a training stage holds on each of its GPUs.

Per parameter, in mixed precision as Megatron-Core keeps it: 2 bytes of weight, 4 of gradient (accumulated in fp32),
and for Adam 12 of optimizer state (fp32 master copy and two moments; 8 for SGD with momentum): 18 bytes. ZeRO 1
divides the optimizer state over the data-parallel groups, ZeRO 2 gradients too, ZeRO 3 weights too: a layer is then
gathered while it is used, and the next one ahead of its turn. Until they are scattered the gradients of one layer are
whole, in 16 bit.

Activations follow Korthikanti et al. 2023 as `planner.model.LayerTable` states them, without the scores that flash
attention does not keep; where a GPU cannot run that (`planner.cost.training_attention`) the scores are kept too. Under
1F1B stage s of S holds ``min(m, S - s)`` microbatches. With full recomputation a layer keeps its input only, with
selective recomputation all but its scores, and the one layer being recomputed keeps all of its activations. The last
stage holds the logits of one microbatch in 16 bit and in fp32. What the engine reserves (CUDA context, NCCL) comes on
top.

Legend: K layer kind, B number of sequences in a microbatch.

References
----------
V. Korthikanti et al., "Reducing activation recomputation in large transformer models", MLSys 2023, sections 4 and 5.
S. Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", SC 2020, section 5.1.
D. Narayanan et al., "Efficient large-scale language model training on GPU clusters using Megatron-LM", SC 2021,
section 2.2: the in-flight microbatches of 1F1B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.memory import embedding_bytes, head_bytes, weight_bytes_L
from planner.cost.training_attention import score_bytes_K
from planner.cost.training_experts import busiest_KB, expert_saved_K
from planner.cost.training_options import PLAIN, RunOptions
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.engine import memory_budget
from planner.model import layer_table

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cost._types import Array
    from planner.cost.training_stage import Recompute
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import TrainingJob

__all__ = [
    "GRADIENT_BYTES",
    "WEIGHT_BYTES",
    "Activations",
    "activations",
    "end_parameters",
    "layer_parameters_K",
    "memory_limit",
    "microbatches_in_flight",
    "optimizer_bytes",
    "state_bytes",
    "unsharded_bytes",
]

WEIGHT_BYTES: Final = 2.0
GRADIENT_BYTES: Final = 4.0
_OPTIMIZER_BYTES: Final = {"adam": 12.0, "sgd": 8.0}
# As the head writes them, and the copy that the loss works on, whose gradient takes its place.
_LOGIT_BYTES: Final = 2.0 + 4.0


def optimizer_bytes(job: TrainingJob) -> float:
    """Bytes of optimizer state per parameter, before ZeRO divides them."""
    return _OPTIMIZER_BYTES[job.optimizer]


def state_bytes(job: TrainingJob, dp: int, options: RunOptions = PLAIN) -> float:
    """Bytes per parameter on one GPU: weight, gradient and optimizer state; the weight alone where it is frozen.

    Examples
    --------
    >>> from planner.plan import TrainingJob
    >>> job = TrainingJob(global_batch=8, sequence_length=2048, zero_stage=0)
    >>> state_bytes(job, dp=4), state_bytes(job.model_copy(update={"zero_stage": 1}), dp=4)
    (18.0, 9.0)
    """
    divided = dp if job.zero_stage >= 1 else 1
    weight = WEIGHT_BYTES / (dp if job.zero_stage >= 3 else 1)
    if options.frozen_weights:
        return weight
    gradient = options.gradient_bytes / (dp if job.zero_stage >= 2 else 1)
    return weight + gradient + optimizer_bytes(job) / divided


def unsharded_bytes(job: TrainingJob, dp: int, largest: float) -> float:
    """Bytes that ZeRO 2 and 3 hold whole at a time.

    Parameters
    ----------
    job, dp
        The job, and groups that share its state.
    largest
        Parameters on each GPU of the largest layer of a stage.
    """
    if job.zero_stage < 2 or dp == 1:
        return 0.0
    gathered = 2.0 * WEIGHT_BYTES if job.zero_stage >= 3 else 0.0
    return (gathered + WEIGHT_BYTES) * largest


def layer_parameters_K(model: ModelSpec, tp: int) -> Array:
    """Parameters of a layer of each kind on each GPU of a tensor-parallel group.

    Parameters
    ----------
    model
        As it is trained (`planner.cost.training_stage.mixed_precision`): 16 bit throughout.
    tp
        Size of the group.
    """
    per_layer = weight_bytes_L(model, tp) / DTYPE_BYTES[model.dtype]
    first_of_kind = [model.kind_of_layer.index(kind) for kind in range(len(model.kinds))]
    return np.asarray(per_layer[first_of_kind])


def end_parameters(model: ModelSpec, tp: int, *, first: bool, last: bool) -> float:
    """Parameters on each GPU of what surrounds the layers: embedding on the first stage, head on the last.

    A tied head on another stage than the embedding is a second copy; both on one stage are one.
    """
    total = embedding_bytes(model, tp) if first else 0.0
    if last and not (first and model.tied_embeddings):
        total += head_bytes(model, tp)
    return total / DTYPE_BYTES[model.dtype]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Activations:
    """Bytes of activations on each GPU of a stage.

    Parameters
    ----------
    saved_KB
        Of one layer of each kind, for every microbatch in flight.
    working_B
        Held once, whatever the stage has in flight: the layer that is being recomputed.
    logits_B
        Held once on the last stage.
    """

    saved_KB: Array
    working_B: Array
    logits_B: Array


def activations(
    model: ModelSpec,
    tp: int,
    *,
    sequences_B: Array,
    sequence_length: float,
    recompute: Recompute,
    sequence_parallel: bool,
    flash_attention: bool = True,
    expert_parallel: int = 1,
    stored: Dtype | None = None,
) -> Activations:
    """Activations of a microbatch on one GPU of a tensor-parallel group.

    Parameters
    ----------
    model
        As it is trained.
    tp
        Size of the group.
    sequences_B, sequence_length
        Sequences per microbatch, and tokens in each.
    recompute, sequence_parallel
        Of the schedule; without sequence parallelism the group repeats what tensor parallelism does not divide.
    flash_attention
        Whether the GPUs have it (`planner.cost.training_attention.has_flash_attention`).
    expert_parallel
        Groups that hold different experts: the busiest gets more than its share of tokens.
    stored
        Format that matrices are multiplied in, if not 16 bit: what they take in is kept in it.
    """
    tokens_B = np.asarray(sequences_B, dtype=float) * sequence_length
    parallel = sequence_parallel and tp > 1
    per_token_L = layer_table(model).activation_bytes_per_gpu_L(tp, sequence_parallel=parallel)
    whole_K = np.array([per_token_L[model.kind_of_layer.index(kind)] for kind in range(len(model.kinds))])
    if stored is not None:
        whole_K = whole_K - _narrower_bytes_K(model, tp, stored, sequence_parallel=parallel)
    scores_K = np.zeros_like(whole_K) if flash_attention else score_bytes_K(model, tp, sequence_length)
    if recompute == "full":
        input_bytes = model.hidden * DTYPE_BYTES[model.dtype] / (tp if parallel else 1)
        saved_K, working_K = np.full_like(whole_K, input_bytes), whole_K + scores_K
    elif recompute == "selective":
        saved_K, working_K = whole_K, scores_K
    else:
        saved_K, working_K = whole_K + scores_K, np.zeros_like(whole_K)
    saved_KB, working_B = saved_K[:, None] * tokens_B, working_K.max() * tokens_B
    if expert_parallel > 1:
        uneven_KB = expert_saved_K(model, tp)[:, None] * (busiest_KB(model, tokens_B, expert_parallel) - 1.0) * tokens_B
        if recompute == "full":
            working_B = (working_K[:, None] * tokens_B + uneven_KB).max(axis=0)
        else:
            saved_KB = saved_KB + uneven_KB
    return Activations(
        saved_KB=saved_KB,
        working_B=working_B,
        logits_B=_LOGIT_BYTES * (model.vocab / tp) * tokens_B,
    )


def _narrower_bytes_K(model: ModelSpec, tp: int, stored: Dtype, *, sequence_parallel: bool) -> Array:
    """Bytes per token that a layer of each kind saves by keeping what its matrices take in as they multiply it.

    Inputs of the first matrices of both blocks, and of the last one of the feed-forward block. What attention puts out
    is kept twice: as attention needs it, and as the projection takes it in.
    """
    narrow, shared = DTYPE_BYTES[stored], tp if sequence_parallel else 1
    saved = []
    for kind in model.kinds:
        inputs = 2.0 * model.hidden / shared + kind.ffn_width / tp
        output = kind.attention.heads * kind.attention.value_dim / tp
        saved.append((DTYPE_BYTES[model.dtype] - narrow) * inputs - narrow * output)
    return np.array(saved)


def microbatches_in_flight(microbatches: int, *, position: int, stages: int, chunks: int = 1) -> float:
    """Microbatches' worth of a stage's activations that 1F1B holds at once.

    Interleaved over v chunks of its layers a stage warms up longer: ``1 + (S - 1) / (S v)`` times what plain 1F1B
    holds on the first stage.

    References
    ----------
    V. Korthikanti et al., MLSys 2023, section 4.2.3; the warm-up of Megatron-Core's interleaved schedule
    (``2 (S - s - 1) + (v - 1) S`` chunks before the first backward pass).

    Examples
    --------
    >>> microbatches_in_flight(64, position=0, stages=8), microbatches_in_flight(64, position=0, stages=8, chunks=3)
    (8.0, 10.333333333333334)
    """
    if chunks == 1 or stages == 1:
        return float(min(microbatches, stages - position))
    warm_up = 2 * (stages - position - 1) + (chunks - 1) * stages
    return min(microbatches * chunks, warm_up + 1) / chunks


def memory_limit(device: DeviceProfile, engine: EngineProfile) -> float:
    """Bytes that the engine may use of one GPU, its own reserve included."""
    return memory_budget(engine, device.memory.value, 0.0).limit
