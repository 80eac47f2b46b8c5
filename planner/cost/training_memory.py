"""What a training stage holds on each of its GPUs.

Per parameter, in mixed precision as Megatron-Core keeps it: 2 bytes of weight, 4 of gradient (accumulated in fp32),
and for Adam 12 of optimizer state (fp32 master copy and two moments; 8 for SGD with momentum): 18 bytes. ZeRO 1
divides the optimizer state over the data-parallel groups.

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
from planner.dtypes import DTYPE_BYTES
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
]

WEIGHT_BYTES: Final = 2.0
GRADIENT_BYTES: Final = 4.0
_OPTIMIZER_BYTES: Final = {"adam": 12.0, "sgd": 8.0}
# As the head writes them, and the copy that the loss works on, whose gradient takes its place.
_LOGIT_BYTES: Final = 2.0 + 4.0


def optimizer_bytes(job: TrainingJob) -> float:
    """Bytes of optimizer state per parameter, before ZeRO divides them."""
    return _OPTIMIZER_BYTES[job.optimizer]


def state_bytes(job: TrainingJob, dp: int) -> float:
    """Bytes per parameter on one GPU: weight, gradient and optimizer state.

    Examples
    --------
    >>> from planner.plan import TrainingJob
    >>> job = TrainingJob(global_batch=8, sequence_length=2048, zero_stage=0)
    >>> state_bytes(job, dp=4), state_bytes(job.model_copy(update={"zero_stage": 1}), dp=4)
    (18.0, 9.0)
    """
    divided = dp if job.zero_stage >= 1 else 1
    return WEIGHT_BYTES + GRADIENT_BYTES + optimizer_bytes(job) / divided


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
    """
    tokens_B = np.asarray(sequences_B, dtype=float) * sequence_length
    parallel = sequence_parallel and tp > 1
    per_token_L = layer_table(model).activation_bytes_per_gpu_L(tp, sequence_parallel=parallel)
    whole_K = np.array([per_token_L[model.kind_of_layer.index(kind)] for kind in range(len(model.kinds))])
    scores_K = np.zeros_like(whole_K) if flash_attention else score_bytes_K(model, tp, sequence_length)
    if recompute == "full":
        input_bytes = model.hidden * DTYPE_BYTES[model.dtype] / (tp if parallel else 1)
        saved_K, working_K = np.full_like(whole_K, input_bytes), whole_K + scores_K
    elif recompute == "selective":
        saved_K, working_K = whole_K, scores_K
    else:
        saved_K, working_K = whole_K + scores_K, np.zeros_like(whole_K)
    return Activations(
        saved_KB=saved_K[:, None] * tokens_B,
        working_B=working_K.max() * tokens_B,
        logits_B=_LOGIT_BYTES * (model.vocab / tp) * tokens_B,
    )


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
