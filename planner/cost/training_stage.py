"""What one microbatch costs on one stage of a training pipeline: forward, backward and recomputation.

The forward pass is `planner.cost.layer` with whole sequences: every token is new and sees half of its sequence. The
backward pass repeats each part a fixed number of times:

* matrix products twice: one for the gradient of the input, one for that of the weights;
* norms, activations and residuals twice, by their traffic;
* attention 2.5 times: flash attention recomputes the scores that it did not keep (five products against two). Where
  a GPU has none (`planner.cost.training_attention`), each pass multiplies the whole square instead of the causal half
  and moves the scores through memory, and the backward pass repeats the forward pass twice: an estimate;
* tensor-parallel collectives once: the all-reduces of the forward pass have their conjugates. With sequence
  parallelism each all-reduce becomes an all-gather and a reduce-scatter, which move the same bytes. The embedding's
  all-reduce comes in the forward pass, that of the head in the backward pass.

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
from planner.cost.network import Collective
from planner.cost.training_attention import SCORE_TRAFFIC, has_flash_attention
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.plan.figure import weakest

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cost._types import Array
    from planner.engine import EngineProfile
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

# Bytes moved per logit by the loss: written in 16 bit, read and written as fp32 for softmax and its gradient.
_LOSS_FORWARD, _LOSS_BACKWARD = 12.0, 6.0

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageWork:
    """Seconds of one microbatch on one tensor-parallel group, for each of some numbers of sequences.

    Parameters
    ----------
    forward_PKB, backward_PKB
        Of one layer of each kind, part by part; recomputation is in the backward pass.
    overhead
        What the engine adds per layer: forward and backward.
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

    Returns
    -------
    StageWork
    """
    tokens = np.asarray(sequences_B, dtype=float) * sequence_length
    nothing = np.zeros_like(tokens)
    flash = has_flash_attention(device)
    load = Load(
        decode=nothing,
        decode_context=nothing,
        prefill=tokens,
        prefill_context=np.full_like(tokens, sequence_length / 2 if flash else sequence_length),
    )
    pricer, operators = LayerPricer(model, device, collective), DeviceOperators(device)
    forward_PKB = pricer.parts_PKB(load)
    tp, attention = collective.size, PARTS.index("prefill_attention")
    if not flash:
        scores_KB = np.array([kind.attention.heads / tp for kind in model.kinds])[:, None] * tokens * sequence_length
        forward_PKB[attention] += operators.elementwise(SCORE_TRAFFIC * scores_KB)
    if sequence_parallel and tp > 1:
        part = PARTS.index("elementwise")
        forward_PKB[part] = LayerPricer(model, device, _ALONE).parts_PKB(load)[part] / tp
    passes_P = np.array([_BACKWARD[part] for part in PARTS])
    if not flash:
        passes_P[attention] = _UNFUSED_BACKWARD
    again = 1.0 if recompute == "full" else 0.0
    passes_P += again
    if recompute == "selective":
        passes_P[attention] += 1.0
    backward_PKB = forward_PKB * passes_P[:, None, None]

    logits = tokens * (model.vocab / tp)
    head = pricer.head_time_B(tokens)
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
        first_forward_B=pricer.embedding_time_B(tokens),
        first_backward_B=operators.elementwise(2.0 * message),
        last_forward_B=head + operators.elementwise(_LOSS_FORWARD * logits),
        last_backward_B=2.0 * head + operators.elementwise(_LOSS_BACKWARD * logits) + collective.all_reduce(message),
        error_P=tuple(error for error, _ in bands),
        provenance_P=tuple(provenance for _, provenance in bands),
    )
