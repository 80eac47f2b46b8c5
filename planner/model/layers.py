"""A model as arrays over its layers, for cost functions that price many candidates at once.

Axes: L layer. Sizes are bytes, counts are parameters, FLOPs are per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from planner.dtypes import DTYPE_BYTES
from planner.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.model.spec import LayerKind, ModelSpec

__all__ = ["LayerTable", "layer_table"]

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerTable:
    """Vectorised view of a model; the arrays are read-only.

    Parameters
    ----------
    kind_L
        Index into ``ModelSpec.kinds``.
    params_L, active_params_L
        Parameters of a layer, and those that one token uses.
    weight_bytes_L
        Bytes of its weights.
    kv_bytes_L
        KV cache bytes per token, before tensor parallelism, in the model's KV format.
    window_L
        Sliding window in tokens; 0 for none.
    flops_per_token_L
        Twice the weights that one token is multiplied by; attention scores depend on the context and are the
        cost model's.
    activation_bytes_L
        Bytes per token that training keeps of a layer without recomputation on one device.
    activation_whole_L
        The part of it that tensor parallelism does not divide.
    activation_expert_L
        The part of it that sequence parallelism does not divide either: tokens as the experts take them in.
    kv_heads_L
        Heads that tensor parallelism can divide the cache by; 1 for a latent.
    embedding_bytes
        What the first stage holds before its layers: token table, positions.
    head_bytes
        What the last stage holds after its layers: final norm and the head. Where embeddings are tied this is
        a copy of the token table, needed only if the last stage is not also the first: :meth:`ends_bytes`.
    tied_bytes
        The copy that one device holding both ends does without; 0 unless tied.
    head_flops_per_token
        FLOPs of the output head for one token.

    Notes
    -----
    Activations follow Korthikanti et al. 2023, equation 1 without its attention-score term (flash attention
    does not keep scores), written out so that it holds for any widths. Per token, with ``e`` bytes a number,
    ``h`` hidden, ``f`` the activated feed-forward width, q, k, v and a the widths of queries, keys, values
    and attention output::

        e·(2h norm inputs + h input of qkv + q + k + v + a + c·h input of the feed-forward + g·f)

    g is 3 with a gate (gate, up, and their product), else 2; c is 1, and with experts 1 + top_k for the
    copies that are sent to them; a latent attention also keeps its latents. Those copies stay whole under
    sequence parallelism: a dispatcher that gathers tokens, Megatron-Core's default, brings the tokens of the
    whole group to each of its GPUs, which holds a slice of every expert. Layers without a gate (GPT, OPT)
    are trained with dropout and keep two masks of ``h`` bytes. With k = v = q = a = h and f = 4h at 16 bit
    this is the paper's 34h.

    References
    ----------
    Korthikanti et al. 2023, Reducing Activation Recomputation in Large Transformer Models, sections 4.1, 4.2.
    """

    kind_L: NDArray[np.int64]
    params_L: NDArray[np.int64]
    active_params_L: NDArray[np.int64]
    weight_bytes_L: NDArray[np.float64]
    kv_bytes_L: NDArray[np.float64]
    window_L: NDArray[np.int64]
    flops_per_token_L: NDArray[np.float64]
    activation_bytes_L: NDArray[np.float64]
    activation_whole_L: NDArray[np.float64]
    activation_expert_L: NDArray[np.float64]
    kv_heads_L: NDArray[np.int64]
    embedding_bytes: float
    head_bytes: float
    tied_bytes: float
    head_flops_per_token: float

    def kv_bytes_per_gpu_L(self, tp: int) -> NDArray[np.float64]:
        """KV cache bytes per token on each GPU of a tensor-parallel group.

        Parameters
        ----------
        tp
            Size of the group. Whole heads are handed out: up to as many GPUs as there are heads each has its
            share (rounded up), beyond that heads are repeated. A latent is repeated on every GPU.

        Returns
        -------
        numpy.ndarray
            (L,) bytes.
        """
        heads_L = -(-self.kv_heads_L // _checked(tp))
        return self.kv_bytes_L / self.kv_heads_L * heads_L

    def activation_bytes_per_gpu_L(self, tp: int, *, sequence_parallel: bool = False) -> NDArray[np.float64]:
        """Activation bytes per token on each GPU of a tensor-parallel group.

        Parameters
        ----------
        tp
            Size of the group.
        sequence_parallel
            Divide the norms and dropout as well (Korthikanti et al. 2023, equations 2 and 4), but not what
            experts take in.
        """
        if sequence_parallel:
            return self.activation_expert_L + (self.activation_bytes_L - self.activation_expert_L) / _checked(tp)
        return self.activation_whole_L + (self.activation_bytes_L - self.activation_whole_L) / _checked(tp)

    def ends_bytes(self, *, first: bool, last: bool) -> float:
        """Bytes of what surrounds the layers on a stage that is the first, the last, both or neither."""
        total = self.embedding_bytes * first + self.head_bytes * last
        return total - self.tied_bytes if first and last else total


def _checked(tp: int) -> int:
    if tp < 1:
        raise InputError(f"is {tp}", field="tp", expected="a whole number >= 1")
    return tp


@lru_cache(maxsize=64)
def layer_table(model: ModelSpec) -> LayerTable:
    """Lay a model out over its layers.

    Examples
    --------
    >>> from planner.model import load_model
    >>> table = layer_table(load_model("llama-3.1-70b"))
    >>> table.kv_bytes_L.sum(), table.kv_bytes_per_gpu_L(16).sum() * 8
    (np.float64(327680.0), np.float64(327680.0))
    """
    kind_L = np.array(model.kind_of_layer, dtype=np.int64)
    kinds = model.kinds
    number = DTYPE_BYTES[model.dtype]

    def whole(values: list[int]) -> NDArray[np.int64]:
        return _frozen(np.array(values, dtype=np.int64)[kind_L])

    def real(values: list[float]) -> NDArray[np.float64]:
        return _frozen(np.array(values, dtype=np.float64)[kind_L])

    activations = [_activation_bytes(kind, model.hidden, number) for kind in kinds]
    matrix = model.embedding_params * number
    norm = model.other_params * number
    final_norm = min(norm, 2 * model.hidden * number)  # the rest is positions, before the layers
    return LayerTable(
        kind_L=_frozen(kind_L),
        params_L=whole([kind.params for kind in kinds]),
        active_params_L=whole([kind.active_params for kind in kinds]),
        weight_bytes_L=real([kind.weight_bytes for kind in kinds]),
        kv_bytes_L=real([kind.attention.kv_dim * DTYPE_BYTES[model.kv_dtype] for kind in kinds]),
        window_L=whole([kind.attention.window or 0 for kind in kinds]),
        flops_per_token_L=real([2.0 * sum(g.top_k * g.n * g.k for g in kind.gemms) for kind in kinds]),
        activation_bytes_L=real([total for total, _ in activations]),
        activation_whole_L=real([part for _, part in activations]),
        activation_expert_L=real([number * kind.top_k * model.hidden for kind in kinds]),
        kv_heads_L=whole([kind.attention.kv_heads for kind in kinds]),
        embedding_bytes=matrix + norm - final_norm,
        head_bytes=matrix + final_norm,
        tied_bytes=matrix if model.tied_embeddings else 0.0,
        head_flops_per_token=2.0 * model.embedding_params,
    )


def _activation_bytes(kind: LayerKind, hidden: int, number: float) -> tuple[float, float]:
    """Sum the saved bytes per token of a layer; second, the part that tensor parallelism repeats."""
    shape = kind.attention
    by_name = {gemm.name: gemm for gemm in kind.gemms}
    kv_heads = shape.heads if shape.kind == "mla" else shape.kv_heads  # training expands the latent
    heads = shape.heads * (shape.head_dim + shape.value_dim) + kv_heads * (shape.head_dim + shape.value_dim)
    latents = sum(by_name[name].n for name in ("q_a", "kv_a") if name in by_name)
    masks = 0 if kind.gated else 2 * hidden
    residual = (4 + kind.top_k) * hidden  # two norm inputs, inputs of attention and feed-forward, expert copies
    whole = number * (residual + latents) + masks
    return whole + number * (heads + (3 if kind.gated else 2) * kind.ffn_width), whole


def _frozen(array: NDArray[_Number]) -> NDArray[_Number]:
    array.setflags(write=False)
    return array
