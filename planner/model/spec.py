"""What a decoder-only language model is made of: weight matrices, layers, and what surrounds them.

Counts are parameters and tokens, sizes are bytes. Everything here is for the whole model on one device; how
tensor parallelism divides it is said by ``Gemm.split`` and by :class:`planner.model.layers.LayerTable`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from planner.dtypes import DTYPE_BYTES, Dtype

__all__ = ["Attention", "Gemm", "LayerKind", "ModelSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """One weight matrix of a layer, multiplied as (tokens, k) x (k, n).

    Parameters
    ----------
    name
        What it does: ``"qkv"``, ``"attention_out"``, ``"gate_up"``, ``"expert_down"`` …
    n, k
        Output and input width before tensor parallelism.
    split
        What tensor parallelism divides: ``"column"`` the n, ``"row"`` the k, ``"replicated"`` nothing.
    dtype
        Stored format of the weight.
    experts
        How many such matrices the layer holds.
    top_k
        How many of them one token visits.
    bias
        Whether each adds a vector of length n.
    """

    name: str
    n: int
    k: int
    split: Literal["column", "row", "replicated"]
    dtype: Dtype
    experts: int = 1
    top_k: int = 1
    bias: bool = False

    @property
    def weights(self) -> int:
        """Entries of the matrices of all experts, without biases."""
        return self.experts * self.n * self.k

    @property
    def params(self) -> int:
        """Parameters of all experts with biases."""
        return self.experts * self._params_each

    @property
    def active_params(self) -> int:
        """Parameters one token is multiplied by, with biases."""
        return self.top_k * self._params_each

    @property
    def _params_each(self) -> int:
        return self.n * self.k + (self.n if self.bias else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Shape of a layer's attention.

    Parameters
    ----------
    kind
        ``"gqa"``: heads share keys and values in groups (one head a group: multi-head attention).
        ``"mla"``: all heads read one compressed latent (DeepSeek-V2, 2024, section 2.1).
    heads
        Query heads.
    kv_heads
        Key/value heads; 1 for ``"mla"``, whose latent tensor parallelism cannot divide.
    head_dim
        Width of the product of query and key (mla: with and without rotary position together).
    value_dim
        Width of a value per head.
    kv_dim
        Cached numbers per token and layer over all key/value heads.
    window
        Tokens that a query sees back, or None for all.
    """

    kind: Literal["gqa", "mla"]
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    kv_dim: int
    window: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """A transformer layer; models repeat a few kinds many times.

    Parameters
    ----------
    name
        For people: ``"dense"``, ``"moe"``, ``"dense/window 1024"``. Unique within a model.
    attention
        Shape of the attention.
    gemms
        Its weight matrices, in the order a token meets them.
    norm_params
        Every other parameter: norms, attention sinks, routing corrections.
    experts, top_k
        Routed experts and how many a token visits; 0 and 0 in a dense layer.
    ffn_width
        Intermediate width that one token activates in total, shared experts included.
    """

    name: str
    attention: Attention
    gemms: tuple[Gemm, ...]
    norm_params: int
    experts: int
    top_k: int
    ffn_width: int

    @property
    def params(self) -> int:
        """All parameters of the layer."""
        return sum(gemm.params for gemm in self.gemms) + self.norm_params

    @property
    def active_params(self) -> int:
        """Parameters that one token uses: all but the experts it does not visit."""
        return sum(gemm.active_params for gemm in self.gemms) + self.norm_params

    @property
    def gated(self) -> bool:
        """Whether the feed-forward part multiplies by a gate (SwiGLU, GeGLU)."""
        return any(gemm.name.endswith("gate_up") for gemm in self.gemms)

    @property
    def bytes_by_dtype(self) -> dict[Dtype, float]:
        """Weight bytes by stored format; what is not a matrix is kept at 16 bit (32 bit in an fp32 model)."""
        small: Dtype = "fp32" if all(gemm.dtype == "fp32" for gemm in self.gemms) else "bf16"
        if any(gemm.dtype == "fp16" for gemm in self.gemms):
            small = "fp16"
        total: Counter[Dtype] = Counter()
        count = self.norm_params
        for gemm in self.gemms:
            total[gemm.dtype] += gemm.weights
            count += gemm.params - gemm.weights
        total[small] += count
        return {dtype: number * DTYPE_BYTES[dtype] for dtype, number in total.items()}

    @property
    def weight_bytes(self) -> float:
        """Weight bytes of the layer."""
        return sum(self.bytes_by_dtype.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model as the planner sees it.

    Parameters
    ----------
    name, model_type
        What to call it, and the ``model_type`` it was read as.
    hidden, vocab, max_context
        Residual width, vocabulary, longest context in tokens.
    kinds, kind_of_layer
        The distinct layers, and for each layer the index of its kind.
    tied_embeddings
        Whether the output head reuses the token table.
    embedding_params
        The token table. The head multiplies by a matrix of the same size, tied or not.
    head_params
        The head's own matrix; 0 when tied.
    other_params
        The rest outside layers: final norm, learned positions, projections around the embedding.
    dtype
        Format of activations, embeddings and head.
    weight_dtype
        Stored format of most of the layer weights.
    kv_dtype
        Default format of the KV cache.
    mtp_layers
        Multi-token-prediction layers that the checkpoint carries beyond its layers; told, not counted.
    source, sha256
        Where it was read from, and the hash of that text.
    """

    name: str
    model_type: str
    hidden: int
    vocab: int
    max_context: int
    kinds: tuple[LayerKind, ...]
    kind_of_layer: tuple[int, ...]
    tied_embeddings: bool
    embedding_params: int
    head_params: int
    other_params: int
    dtype: Dtype
    weight_dtype: Dtype
    kv_dtype: Dtype
    mtp_layers: int
    source: str
    sha256: str

    @property
    def num_layers(self) -> int:
        """Number of transformer layers."""
        return len(self.kind_of_layer)

    @property
    def params(self) -> int:
        """All parameters, without multi-token-prediction layers."""
        layers = sum(self.kinds[kind].params * count for kind, count in self._counts())
        return layers + self.embedding_params + self.head_params + self.other_params

    @property
    def active_params(self) -> int:
        """Parameters that compute one token: the layers without unvisited experts, the head, and the rest.

        The token table is looked up, not multiplied, so it does not count unless it is also the head. This is
        how OpenAI (gpt-oss) and DeepSeek count; see :attr:`active_params_with_embedding`.
        """
        head = self.embedding_params if self.tied_embeddings else self.head_params
        return self._active_in_layers() + head + self.other_params

    @property
    def active_params_with_embedding(self) -> int:
        """All parameters but the experts that a token does not visit.

        How Mistral (Mixtral) and Qwen count: :attr:`active_params` and an untied token table.
        """
        return self._active_in_layers() + self.embedding_params + self.head_params + self.other_params

    @property
    def bytes_by_dtype(self) -> dict[Dtype, float]:
        """Weight bytes by stored format, over layers, embeddings and head."""
        total: Counter[Dtype] = Counter()
        for kind, count in self._counts():
            for dtype, size in self.kinds[kind].bytes_by_dtype.items():
                total[dtype] += size * count  # type: ignore[assignment]  # Counter is typed for whole numbers
        outside = self.embedding_params + self.head_params + self.other_params
        total[self.dtype] += outside * DTYPE_BYTES[self.dtype]  # type: ignore[assignment]
        return dict(total)

    @property
    def weight_bytes(self) -> float:
        """Weight bytes of the whole model."""
        return sum(self.bytes_by_dtype.values())

    @property
    def kv_bytes_per_token(self) -> float:
        """KV cache bytes that one more token takes over all layers, while no sliding window is full."""
        numbers = sum(self.kinds[kind].attention.kv_dim * count for kind, count in self._counts())
        return numbers * DTYPE_BYTES[self.kv_dtype]

    def _counts(self) -> list[tuple[int, int]]:
        return sorted(Counter(self.kind_of_layer).items())

    def _active_in_layers(self) -> int:
        return sum(self.kinds[kind].active_params * count for kind, count in self._counts())
