"""What a layer costs on the GPUs of one stage: its operators, summed, for a whole batch of loads at once.

Where attention runs data-parallel, a load is that of all ranks together: each has its part of the sequences and
prompts, and all meet at the experts, for which tokens are gathered and their results scattered back. An engine that
keeps prompts level between ranks (TensorRT-LLM's ``enable_balance``) is assumed.

Legend: B batch of loads, K layer kind of the model, P part of a layer (operator class), T tokens of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cost.device import DeviceOperators
from planner.cost.experts import ExpertKernel
from planner.cost.latent import LatentKernel
from planner.cost.parallelism import ReplicaParallelism
from planner.cost.routing import EXPERT_SKEW, Routing
from planner.dtypes import DTYPE_BYTES
from planner.plan.figure import Provenance, weakest

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cost._types import Array
    from planner.cost.network import Collective
    from planner.model import Attention, Gemm, LayerKind, ModelSpec

__all__ = ["PARTS", "QUANTISED", "LayerPricer", "Load"]

PARTS: Final = ("gemm", "prefill_attention", "decode_attention", "elementwise", "all_reduce")

# Bytes per token that norms, residuals and activations move, in units of: hidden, intermediate / TP, attention / TP
# (reads and writes of 16-bit values of an unfused layer).
_ELEMENTWISE_HIDDEN, _ELEMENTWISE_FFN, _ELEMENTWISE_ATTENTION = 20.0, 8.0, 6.0

QUANTISED: Final = ("fp8", "int8", "nvfp4")
"""Formats in which activations are multiplied too; others are of weights alone."""

# Where the time of routed experts is tabulated; between two of these it is within 0.1 % of a power law.
_TOKENS_T: Final = np.geomspace(1.0, 2.0**18, 145)
_LOG_TOKENS_T: Final = np.log(_TOKENS_T)


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
    """Prices the layers of a model on the GPUs of one stage, all of one type.

    Parameters
    ----------
    model
        The model.
    device
        Profile of the GPUs.
    collective
        The group of all of them.
    parallelism
        How they share a layer; None: tensor parallelism over the group.
    engine
        Whose kernels run; None takes the best of any engine for matrix products and attention, and the roofline of
        the device's matrix products for routed experts and latent attention.
    expert_skew
        How unevenly the router loads experts; see `planner.cost.routing`.
    """

    def __init__(
        self,
        model: ModelSpec,
        device: DeviceProfile,
        collective: Collective,
        *,
        parallelism: ReplicaParallelism | None = None,
        engine: str | None = None,
        expert_skew: float = EXPERT_SKEW,
    ) -> None:
        self.model, self.device, self.collective = model, device, collective
        self.parallelism = ReplicaParallelism(tp=collective.size) if parallelism is None else parallelism
        if self.parallelism.gpus != collective.size:
            raise ValueError(f"{self.parallelism} in a group of {collective.size} GPUs")
        self.tp, self.ranks = self.parallelism.tp, self.parallelism.attention_dp
        self._operators = DeviceOperators(device, engine)
        self._attention_group = collective.among(self.tp)
        self._experts: dict[str, tuple[ExpertKernel, Routing]] = {}
        self._latent: dict[Attention, LatentKernel] = {}
        if engine is not None:
            self._find_kernels(engine, expert_skew)
        self._expert_time_T: dict[str, Array] = {}

    def _find_kernels(self, engine: str, expert_skew: float) -> None:
        for kind in self.model.kinds:
            attention, routed = kind.attention, [gemm for gemm in kind.gemms if gemm.experts > 1]
            if attention.kind == "mla" and attention not in self._latent:
                latent = LatentKernel.of(attention, self.device, engine, self.model.kv_dtype)
                if latent is not None:
                    self._latent[attention] = latent
            down = next((gemm for gemm in routed if gemm.split == "row"), None)
            if down is None:
                continue
            matrices = sum(gemm.n * gemm.k for gemm in routed) / (down.n * down.k)
            kernel = ExpertKernel(self.device, engine, down.dtype, self.model.hidden, down.k, matrices)
            if kernel.known:
                self._experts[kind.name] = kernel, Routing(kind.experts, kind.top_k, expert_skew)

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
        attention = kind.attention
        all_tokens = np.asarray(load.decode + load.prefill, dtype=float)
        decode = self._of_rank(load.decode)
        prefill = np.asarray(load.prefill, dtype=float) / self.ranks
        tokens = decode + prefill
        heads = max(attention.heads / tp, 1.0)
        fused = kind.name in self._experts
        single = (gemm for gemm in kind.gemms if gemm.experts == 1)
        gemm = sum((self._gemm(kind, g, tokens) for g in single), np.zeros_like(tokens))
        if fused:
            gemm = gemm + self._routed(kind.name, all_tokens)
        else:
            routed = (gemm for gemm in kind.gemms if gemm.experts > 1)
            gemm = sum((self._gemm(kind, g, all_tokens) for g in routed), gemm)
        prefill_time, decode_time = self._attention(kind, load, prefill, decode, heads)
        own_width = kind.ffn_width - (self._experts[kind.name][0].intermediate * kind.top_k if fused else 0)
        element = operators.elementwise(
            tokens
            * (
                _ELEMENTWISE_HIDDEN * model.hidden
                + _ELEMENTWISE_FFN * own_width / tp
                + _ELEMENTWISE_ATTENTION * attention.heads * attention.head_dim / tp
            )
        )
        return np.stack([gemm, prefill_time, decode_time, element, self._exchange(kind, tokens, all_tokens)])

    def _of_rank(self, sequences: Array) -> Array:
        """Sequences that the fullest rank decodes: an even share, but a whole one if there is any."""
        sequences = np.asarray(sequences, dtype=float)
        return np.maximum(sequences / self.ranks, np.minimum(sequences, 1.0))

    def _attention(
        self, kind: LayerKind, load: Load, prefill: Array, decode: Array, heads: float
    ) -> tuple[Array, Array]:
        operators, attention = self._operators, kind.attention
        latent = self._latent.get(attention)
        if latent is not None:
            return (
                latent.prefill_B(prefill, load.prefill_context, heads),
                latent.decode_B(decode, load.decode_context, heads),
            )
        window = attention.window or np.inf
        shape: dict[str, Any] = {"kv_dtype": self.model.kv_dtype}
        if attention.kind != "mla":
            shape |= {"heads": heads, "kv_heads": max(attention.kv_heads / self.tp, 1.0)}
        # MLA decodes on the latent itself: every head multiplies kv_dim twice; one latent is not divided by TP
        width = heads * (2 * attention.kv_dim if attention.kind == "mla" else attention.head_dim + attention.value_dim)
        return (
            operators.prefill_attention(
                prefill,
                load.prefill_context,
                heads * (attention.head_dim + attention.value_dim),
                window=window,
                **shape,
            ),
            operators.decode_attention(
                decode,
                np.minimum(load.decode_context, window),
                attention.kv_dim / min(self.tp, attention.kv_heads) * DTYPE_BYTES[self.model.kv_dtype],
                width,
                **shape,
            ),
        )

    def _exchange(self, kind: LayerKind, tokens: Array, all_tokens: Array) -> Array:
        """Seconds of collectives: all-reduces after both blocks, or tokens to the experts and their results back.

        A gather and a scatter of all ranks' tokens move what one all-reduce of them moves; tokens whose experts compute
        in 8 bits or less are quantised before they are gathered. A dense layer of a data-parallel attention is computed
        by every rank for its own tokens.
        """
        each = DTYPE_BYTES[self.model.dtype]
        width = self.model.hidden * each
        if self.ranks == 1:
            return 2.0 * self.collective.all_reduce(tokens * width)
        reduce = self._attention_group.all_reduce(tokens * width)
        if not kind.experts:
            return 2.0 * reduce
        stored = next(gemm.dtype for gemm in kind.gemms if gemm.experts > 1)
        gathered = DTYPE_BYTES[stored] if stored in QUANTISED else each
        return reduce + self.collective.all_reduce(all_tokens * self.model.hidden * (gathered + each) / 2.0)

    def _routed(self, name: str, tokens: Array) -> Array:
        """Seconds of the routed experts by tokens of all ranks, from a grid that is computed once."""
        if name not in self._expert_time_T:
            kernel, routing = self._experts[name]
            tp, ep = self.parallelism.moe_tp, self.parallelism.moe_ep
            self._expert_time_T[name] = np.log(kernel.time_B(_TOKENS_T, routing, tp, ep))
        size = np.maximum(tokens, 1.0)
        time = np.exp(np.interp(np.log(size), _LOG_TOKENS_T, self._expert_time_T[name]))
        beyond = np.maximum(size / _TOKENS_T[-1], 1.0)
        return np.where(tokens > 0, np.minimum(tokens, 1.0) * beyond * time, 0.0)

    def _gemm(self, kind: LayerKind, gemm: Gemm, tokens: Array) -> Array:
        if gemm.experts > 1:
            return self._grouped(gemm, tokens)
        n = gemm.n / self.tp if gemm.split == "column" else gemm.n
        attention = kind.attention
        if gemm.name == "qkv" and attention.kind == "gqa" and self.tp > attention.kv_heads:
            # a KV head is computed by each of the GPUs that hold it
            n += (attention.head_dim + attention.value_dim) * (1.0 - attention.kv_heads / self.tp)
        k = gemm.k / self.tp if gemm.split == "row" else gemm.k
        return self._operators.gemm(tokens, n, k, gemm.dtype, self.model.dtype)

    def _grouped(self, gemm: Gemm, tokens: Array) -> Array:
        """Routed experts without a table of their own: a grouped product of those on one GPU, evenly loaded."""
        tp, ep = self.parallelism.moe_tp, self.parallelism.moe_ep
        n = gemm.n / tp if gemm.split == "column" else gemm.n
        k = gemm.k / tp if gemm.split == "row" else gemm.k
        return self._operators.grouped_gemm(
            tokens, n, k, gemm.experts / ep, gemm.top_k / ep, gemm.dtype, self.model.dtype
        )

    def head_time_B(self, rows: Array) -> Array:
        """Seconds of the language-model head for so many rows: one per decoding sequence and finished prompt."""
        model = self.model
        rows = self._of_rank(rows)
        return self._operators.gemm(rows, model.vocab / self.tp, model.hidden, model.dtype, model.dtype)

    def embedding_time_B(self, tokens: Array) -> Array:
        """Seconds of the embedding look-up: one row read and written per token, and TP's all-reduce of it."""
        message = np.asarray(tokens, dtype=float) / self.ranks * self.model.hidden * DTYPE_BYTES[self.model.dtype]
        return self._operators.elementwise(2.0 * message) + self._attention_group.all_reduce(message)

    def band(self, part: str) -> tuple[float, Provenance]:
        """Relative error and provenance of one of `PARTS`; GEMM takes the worst of the formats it uses."""
        if part == "all_reduce":
            return (
                (self.collective.error, self.collective.provenance) if self.collective.size > 1 else (0.0, "measured")
            )
        if part in ("prefill_attention", "decode_attention") and self._latent:
            bands = [latent.band(part) for latent in self._latent.values()]
        elif part != "gemm":
            return self._operators.band(part, self.model.kv_dtype)
        else:
            fused = [kernel.band(routing) for kernel, routing in self._experts.values()]
            kinds = self.model.kinds
            stored = {g.dtype for kind in kinds for g in kind.gemms if g.experts == 1 or kind.name not in self._experts}
            bands = [*(self._operators.band("gemm", dtype) for dtype in sorted(stored)), *fused]
        return max(error for error, _ in bands), weakest(*(provenance for _, provenance in bands))
