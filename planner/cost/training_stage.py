"""What one microbatch costs on one stage of a training pipeline: forward, backward and recomputation.

The forward pass is `planner.cost.layer` with whole sequences: every token is new and sees half of its sequence. The
backward pass repeats each part a fixed number of times:

* matrix products twice: one for the gradient of the input, one for that of the weights;
* norms, activations and residuals twice, by their traffic;
* attention 2.5 times: flash attention recomputes the scores that it did not keep (five products against two). Where
  a GPU has none (`planner.cost.training_attention`), each pass multiplies the whole square instead of the causal half
  as matrices and moves the scores through memory, and the backward pass repeats the forward pass twice: an estimate;
* tensor-parallel collectives once: the all-reduces of the forward pass have their conjugates. With sequence
  parallelism each all-reduce becomes an all-gather and a reduce-scatter, which move the same bytes. The embedding's
  all-reduce comes in the forward pass, that of the head in the backward pass.

In fp8 or nvfp4 every matrix product of a layer casts what it multiplies, in both directions of the matrix: activations
in the forward pass, gradients in the backward pass. How kernels fare inside a run, and how much of the collectives
stays in view, are constants of the engine (`planner.engine.TrainingTimes`).

Context parallelism divides the tokens of a sequence; each GPU attends to the same share of the causal square (chunks
from both ends), and keys and values go around the group, their gradients back. Expert parallelism is
`planner.cost.training_experts`.

Recomputation ``full`` adds one forward pass of the layers, ``selective`` one of attention; flash attention keeps no
scores, so that there it costs time and saves nothing.

Legend: P part of a layer (see `planner.cost.layer.PARTS`), K layer kind, B number of sequences in a microbatch.

References
----------
V. Korthikanti et al., "Reducing activation recomputation in large transformer models", MLSys 2023, section 4.
T. Dao, "FlashAttention-2", ICLR 2024, section 3.1: 4 and 10 products' worth of FLOPs forward and backward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from planner.cost.device import DeviceOperators
from planner.cost.layer import PARTS, LayerPricer, Load
from planner.cost.network import Collective, point_to_point
from planner.cost.training_attention import SCORE_TRAFFIC, has_flash_attention
from planner.cost.training_experts import expert_gemm_KB, expert_sends_KB
from planner.cost.training_gemm import large_gemm_level
from planner.cost.training_options import PLAIN, RunOptions
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.plan.figure import weakest

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile, Link
    from planner.cost._types import Array
    from planner.engine import EngineProfile
    from planner.engine.spec import TrainingTimes
    from planner.model import ModelSpec
    from planner.plan import Provenance

__all__ = ["Recompute", "StageWork", "mixed_precision", "stage_work"]

Recompute = Literal["none", "selective", "full"]

# How often the backward pass repeats a part of the forward pass.
_BACKWARD: Final = {
    "gemm": 2.0,
    "prefill_attention": 2.5,
    "decode_attention": 0.0,
    "elementwise": 2.0,
    "all_reduce": 1.0,
}

# The same for attention that keeps its scores: four products against two.
_UNFUSED_BACKWARD: Final = 2.0

# Bytes moved per logit by the loss as Megatron-Core computes it in fp32: cast (2 + 4), maximum (4), difference (4 + 4),
# exponential (4 + 4), sum (4), quotient (4 + 4); backward the gradient scaled (4 + 4) and cast (4 + 2).
_LOSS_FORWARD, _LOSS_BACKWARD = 38.0, 14.0

# Parts that a run's constants scale.
_SCALED: Final = ("gemm", "prefill_attention", "elementwise", "all_reduce")

# Bytes per value of a cast: read in 16 bit, written in 8 both as it lies and transposed.
_CAST_BYTES: Final = 2.0 + 1.0 + 1.0

_ALONE: Final = Collective(1, 0.0, float("inf"), 0.0, "measured")


@lru_cache(maxsize=64)
def mixed_precision(model: ModelSpec) -> ModelSpec:
    """The model as it is trained: every matrix in 16 bit, whatever format its checkpoint stores.

    Examples
    --------
    >>> from planner.model import load_model
    >>> mixed_precision(load_model("gpt-oss-120b")).weight_dtype
    'bf16'
    """
    dtype: Dtype = "fp16" if model.dtype == "fp16" else "bf16"
    kinds = tuple(replace(kind, gemms=tuple(replace(gemm, dtype=dtype) for gemm in kind.gemms)) for kind in model.kinds)
    return replace(model, kinds=kinds, dtype=dtype, weight_dtype=dtype)


@lru_cache(maxsize=64)
def _multiplied_in(model: ModelSpec, dtype: Dtype) -> ModelSpec:
    """The model with the matrices of its layers in another format."""
    kinds = tuple(replace(kind, gemms=tuple(replace(gemm, dtype=dtype) for gemm in kind.gemms)) for kind in model.kinds)
    return replace(model, kinds=kinds)


def _gemm_pace(times: TrainingTimes, options: RunOptions) -> float:
    figures = {None: times.gemm, "fp8": times.gemm_fp8, "nvfp4": times.gemm_fp4}
    return figures[options.stored].value


def _cast_bytes_K(model: ModelSpec, tp: int) -> tuple[Array, Array]:
    """Bytes per token that casts move in a layer of each kind: of what matrices take in, and of gradients."""
    there = [sum(g.k * g.top_k / (tp if g.split == "row" else 1) for g in kind.gemms) for kind in model.kinds]
    back = [sum(g.n * g.top_k / (tp if g.split == "column" else 1) for g in kind.gemms) for kind in model.kinds]
    return _CAST_BYTES * np.array(there), _CAST_BYTES * np.array(back)


def _unfused_attention_KB(
    model: ModelSpec, operators: DeviceOperators, tp: int, tokens: Array, sequence_length: int
) -> Array:
    """Seconds of attention as separate kernels: two products over the whole square, what is between them."""
    times = []
    for kind in model.kinds:
        rows = tokens * kind.attention.heads / tp
        products = operators.gemm(rows, sequence_length, kind.attention.head_dim, model.dtype, model.dtype)
        products = products + operators.gemm(rows, kind.attention.value_dim, sequence_length, model.dtype, model.dtype)
        times.append(products + operators.elementwise(SCORE_TRAFFIC * rows * sequence_length))
    return np.stack(times)


def _ring_seconds_KB(model: ModelSpec, tp: int, tokens: Array, context: int, link: Link) -> Array:
    """Seconds that keys and values of a layer take around a context-parallel group."""
    size_K = np.array([kind.attention.kv_dim / min(tp, kind.attention.kv_heads) for kind in model.kinds])
    message_KB = size_K[:, None] * tokens * DTYPE_BYTES[model.dtype]
    return (context - 1) * np.asarray(point_to_point(message_KB, link))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageWork:
    """Seconds of one microbatch on one tensor-parallel group, for each of some numbers of sequences.

    Parameters
    ----------
    forward_PKB, backward_PKB
        Of one layer of each kind, part by part; recomputation is in the backward pass.
    overhead
        What the engine adds per layer: forward and backward.
    recompute_PKB, ring_KB, sends_KB
        How much of them is recomputation; and of the rest, keys and values around a context-parallel group, and tokens
        to experts and back.
    again
        Times that the engine's time per layer is spent on recomputation.
    first_forward_B, first_backward_B
        What the first stage adds: the embedding.
    last_forward_B, last_backward_B
        What the last stage adds: head and loss.
    error_P, provenance_P
        Of each part.
    """

    forward_PKB: Array
    backward_PKB: Array
    overhead: tuple[float, float]
    recompute_PKB: Array
    ring_KB: Array
    sends_KB: Array
    again: float
    first_forward_B: Array
    first_backward_B: Array
    last_forward_B: Array
    last_backward_B: Array
    error_P: tuple[float, ...]
    provenance_P: tuple[Provenance, ...]

    @property
    def layer_KB(self) -> Array:
        """Seconds of a layer, forward and backward."""
        parts = self.forward_PKB.sum(axis=0) + self.backward_PKB.sum(axis=0)
        return np.asarray(parts + sum(self.overhead))

    @property
    def first_B(self) -> Array:
        """Seconds that the first stage adds."""
        return np.asarray(self.first_forward_B + self.first_backward_B)

    @property
    def last_B(self) -> Array:
        """Seconds that the last stage adds."""
        return np.asarray(self.last_forward_B + self.last_backward_B)


def stage_work(
    model: ModelSpec,
    device: DeviceProfile,
    collective: Collective,
    engine: EngineProfile,
    *,
    sequences_B: Array,
    sequence_length: int,
    recompute: Recompute,
    sequence_parallel: bool,
    options: RunOptions = PLAIN,
    context_parallel: int = 1,
    context_link: Link | None = None,
    expert_exchange: Collective | None = None,
) -> StageWork:
    """Price one microbatch on a tensor-parallel group.

    Parameters
    ----------
    model
        As it is trained, see `mixed_precision`.
    device, collective
        Type of the GPUs, and the group they form.
    engine
        Whose overhead per layer comes on top, once per pass.
    sequences_B
        Sequences per microbatch.
    sequence_length
        Tokens per sequence.
    recompute, sequence_parallel
        Of the schedule. Sequence parallelism divides norms and residuals over the group.
    options
        Formats and overlaps of the run.
    context_parallel, context_link
        Groups that share each sequence, and the link from one of their GPUs to the next.
    expert_exchange
        All-to-all among the groups that hold different experts; None where every group has all.

    Returns
    -------
    StageWork
    """
    times, context = engine.training, context_parallel
    tokens = np.asarray(sequences_B, dtype=float) * sequence_length / context
    nothing = np.zeros_like(tokens)
    flash = has_flash_attention(device) if options.flash_attention is None else options.flash_attention
    load = Load(
        decode=nothing,
        decode_context=nothing,
        prefill=tokens,
        prefill_context=np.full_like(tokens, sequence_length / 2 if flash else sequence_length),
    )
    cast = model if options.stored is None else _multiplied_in(model, options.stored)
    pricer, operators = LayerPricer(cast, device, collective), DeviceOperators(device)
    forward_PKB = pricer.parts_PKB(load)
    tp = collective.size
    gemm, attention, element, reduce = (PARTS.index(part) for part in _SCALED)
    if not flash:
        forward_PKB[attention] = _unfused_attention_KB(model, operators, tp, tokens, sequence_length)
    if sequence_parallel and tp > 1:
        forward_PKB[element] = LayerPricer(cast, device, _ALONE).parts_PKB(load)[element] / tp
    if expert_exchange is not None:
        own_KB = expert_gemm_KB(cast, operators, tp, tokens, 1)
        forward_PKB[gemm] += expert_gemm_KB(cast, operators, tp, tokens, expert_exchange.size) - own_KB
    forward_PKB[gemm] *= _gemm_pace(times, options) * large_gemm_level(device, options.stored or model.dtype)
    forward_PKB[attention] *= times.attention.value if flash else 1.0
    forward_PKB[element] *= times.elementwise.value
    shown = times.tensor_parallel.value if options.overlap else 1.0
    forward_PKB[reduce] *= shown
    passes_P = np.array([_BACKWARD[part] for part in PARTS])
    if not flash:
        passes_P[attention] = _UNFUSED_BACKWARD
    if options.frozen_weights:
        passes_P[gemm] = 1.0
    again = 1.0 if recompute == "full" else 0.0
    passes_P += again
    if recompute == "selective":
        passes_P[attention] += 1.0
    backward_PKB = forward_PKB * passes_P[:, None, None]
    recompute_PKB = again * forward_PKB
    if recompute == "selective":
        recompute_PKB[attention] = forward_PKB[attention]
    ring_KB = sends_KB = np.zeros_like(forward_PKB[reduce])
    if options.stored is not None:
        there_K, back_K = _cast_bytes_K(model, tp)
        pace = times.quantise if options.matrix_format == "fp8" else times.quantise_blocks
        cost_B = pace.value * operators.elementwise(tokens)
        forward_PKB[element] += there_K[:, None] * cost_B
        backward_PKB[element] += (back_K + again * there_K)[:, None] * cost_B
        recompute_PKB[element] += again * there_K[:, None] * cost_B
    if context > 1 and context_link is not None:
        ring_KB = shown * _ring_seconds_KB(model, tp, tokens, context, context_link)
        forward_PKB[reduce] += ring_KB
        backward_PKB[reduce] += (2.0 + again) * ring_KB
        recompute_PKB[reduce] += again * ring_KB
    if expert_exchange is not None:
        sends_KB = expert_sends_KB(
            model, tokens, expert_exchange, collective, sequence_parallel=sequence_parallel and tp > 1
        )
        forward_PKB[reduce] += sends_KB
        backward_PKB[reduce] += (1.0 + again) * sends_KB
        recompute_PKB[reduce] += again * sends_KB

    logits = tokens * (model.vocab / tp)
    head = pricer.head_time_B(tokens) * times.gemm.value * large_gemm_level(device, model.dtype)
    message = tokens * model.hidden * DTYPE_BYTES[model.dtype]
    bands = [pricer.band(part) for part in PARTS]
    if not flash:
        error, provenance = bands[attention]
        bands[attention] = error, weakest(provenance, "spec")  # no such kernel was measured
    launch = engine.overhead.layer.value
    return StageWork(
        forward_PKB=forward_PKB,
        backward_PKB=backward_PKB,
        overhead=(launch, launch * (2.0 + again)),
        recompute_PKB=recompute_PKB,
        ring_KB=3.0 * ring_KB,
        sends_KB=2.0 * sends_KB,
        again=again,
        first_forward_B=pricer.embedding_time_B(tokens),
        first_backward_B=operators.elementwise(2.0 * message),
        last_forward_B=head + operators.elementwise(_LOSS_FORWARD * logits),
        last_backward_B=2.0 * head
        + operators.elementwise(_LOSS_BACKWARD * logits)
        + shown * collective.all_reduce(message),
        error_P=tuple(error for error, _ in bands),
        provenance_P=tuple(provenance for _, provenance in bands),
    )
