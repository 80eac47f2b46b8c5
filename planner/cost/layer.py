"""What a layer costs on one tensor-parallel group: its operators, summed, for a whole batch of loads at once.

Legend: B batch of loads, K layer kind of the model, P part of a layer (operator class).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.device import DeviceOperators
from planner.dtypes import DTYPE_BYTES
from planner.plan.figure import Provenance, weakest

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cost._types import Array
    from planner.cost.network import Collective
    from planner.model import Gemm, LayerKind, ModelSpec

__all__ = ["PARTS", "LayerPricer", "Load"]

PARTS: Final = ("gemm", "prefill_attention", "decode_attention", "elementwise", "all_reduce")

# Bytes per token that norms, residuals and activations move, in units of: hidden, intermediate / TP, attention / TP
# (reads and writes of 16-bit values of an unfused layer).
_ELEMENTWISE_HIDDEN, _ELEMENTWISE_FFN, _ELEMENTWISE_ATTENTION = 20.0, 8.0, 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one iteration carries; every field is an array of the same shape B.

    Parameters
    ----------
    decode
        Sequences that decode one token each.
    decode_context
        Tokens that each of them holds.
    prefill
        Prompt tokens.
    prefill_context
        Tokens that each of those sees on average, half the prompt where prompts are whole.
    """

    decode: Array
    decode_context: Array
    prefill: Array
    prefill_context: Array


class LayerPricer:
    """Prices the layers of a model on one tensor-parallel group of one GPU type.

    Parameters
    ----------
    model
        The model.
    device
        Profile of the GPUs.
    collective
        The group: its size is the tensor-parallel degree.
    """

    def __init__(self, model: ModelSpec, device: DeviceProfile, collective: Collective) -> None:
        self.model, self.device, self.collective = model, device, collective
        self.tp = collective.size
        self._operators = DeviceOperators(device)

    def parts_PKB(self, load: Load) -> Array:
        """Seconds of each part of each kind of layer, one iteration, forward only.

        Returns
        -------
        array, shape (len(PARTS), kinds, B)
        """
        shape = np.shape(load.decode)
        return np.stack([self._layer(kind, load) for kind in self.model.kinds], axis=1).reshape(
            len(PARTS), len(self.model.kinds), *shape
        )

    def time_KB(self, load: Load) -> Array:
        """Seconds of each kind of layer, shape (kinds, B)."""
        return np.asarray(self.parts_PKB(load).sum(axis=0))

    def _layer(self, kind: LayerKind, load: Load) -> Array:
        operators, model, tp = self._operators, self.model, self.tp
        tokens = np.asarray(load.decode + load.prefill, dtype=float)
        attention = kind.attention
        window = attention.window or np.inf
        heads = max(attention.heads / tp, 1.0)
        gemm = sum((self._gemm(kind, g, tokens) for g in kind.gemms), np.zeros_like(tokens))
        prefill = operators.prefill_attention(
            load.prefill,
            np.minimum(load.prefill_context, window),
            heads * (attention.head_dim + attention.value_dim),
        )
        # MLA decodes on the latent itself: every head multiplies kv_dim twice; one latent is not divided by TP
        width = heads * (2 * attention.kv_dim if attention.kind == "mla" else attention.head_dim + attention.value_dim)
        decode = operators.decode_attention(
            load.decode,
            np.minimum(load.decode_context, window),
            attention.kv_dim / min(tp, attention.kv_heads) * DTYPE_BYTES[model.kv_dtype],
            width,
        )
        element = operators.elementwise(
            tokens
            * (
                _ELEMENTWISE_HIDDEN * model.hidden
                + _ELEMENTWISE_FFN * kind.ffn_width / tp
                + _ELEMENTWISE_ATTENTION * attention.heads * attention.head_dim / tp
            )
        )
        message = tokens * model.hidden * DTYPE_BYTES[model.dtype]
        reduce = 2.0 * self.collective.all_reduce(message)  # after attention and after the feed-forward block
        return np.stack([gemm, prefill, decode, element, reduce])

    def _gemm(self, kind: LayerKind, gemm: Gemm, tokens: Array) -> Array:
        n = gemm.n / self.tp if gemm.split == "column" else gemm.n
        attention = kind.attention
        if gemm.name == "qkv" and attention.kind == "gqa" and self.tp > attention.kv_heads:
            # a KV head is computed by each of the GPUs that hold it
            n += (attention.head_dim + attention.value_dim) * (1.0 - attention.kv_heads / self.tp)
        k = gemm.k / self.tp if gemm.split == "row" else gemm.k
        return self._operators.grouped_gemm(tokens, n, k, gemm.experts, gemm.top_k, gemm.dtype, self.model.dtype)

    def head_time_B(self, rows: Array) -> Array:
        """Seconds of the language-model head for so many rows: one per decoding sequence and finished prompt."""
        model = self.model
        return self._operators.gemm(rows, model.vocab / self.tp, model.hidden, model.dtype, model.dtype)

    def embedding_time_B(self, tokens: Array) -> Array:
        """Seconds of the embedding look-up: one row read and written per token, and TP's all-reduce of it."""
        message = np.asarray(tokens, dtype=float) * self.model.hidden * DTYPE_BYTES[self.model.dtype]
        return self._operators.elementwise(2.0 * message) + self.collective.all_reduce(message)

    def band(self, part: str) -> tuple[float, Provenance]:
        """Relative error and provenance of one of `PARTS`; GEMM takes the worst of the formats it uses."""
        if part == "all_reduce":
            return (self.collective.error, self.collective.provenance) if self.tp > 1 else (0.0, "measured")
        if part != "gemm":
            return self._operators.band(part)
        stored = sorted({gemm.dtype for kind in self.model.kinds for gemm in kind.gemms})
        bands = [self._operators.band("gemm", dtype) for dtype in stored]
        return max(error for error, _ in bands), weakest(*(provenance for _, provenance in bands))
