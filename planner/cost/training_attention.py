"""What depends on the attention kernel and the number format that a GPU can train with.

Flash attention needs compute capability 8.0 (Ampere); Volta and Turing run attention as separate kernels: a product,
a softmax with dropout, a product. Those write and read the scores of every query and key, causal or not, and keep them
for the backward pass: ``5 a s^2 / t`` bytes per layer and sequence with a heads, s tokens and t ways of tensor
parallelism: softmax output and dropout output in 16 bit, and a mask of one byte (Megatron-Core drops out attention
unless told otherwise; without, 2 of the 5 would do). Selective recomputation makes them
anew at the price of another forward pass of attention.

Legend: K layer kind.

References
----------
T. Dao, "FlashAttention-2", ICLR 2024; flash-attn 2 (BSD-3-Clause): Ampere, Ada or Hopper GPUs.
V. Korthikanti et al., "Reducing activation recomputation in large transformer models", MLSys 2023, section 4.1,
equation 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from planner.cluster import Cluster, DeviceProfile
    from planner.cost._types import Array
    from planner.engine import EngineProfile
    from planner.model import ModelSpec

__all__ = [
    "SCORE_TRAFFIC",
    "has_flash_attention",
    "score_bytes_K",
    "sequence_parallel_fault",
    "training_precision",
]

_FLASH_CAPABILITY: Final = (8, 0)
_SCORE_BYTES: Final = 5.0

# Bytes moved per score by the forward pass between its two products: read and written in 16 bit by softmax and by
# dropout, whose mask is another byte. The products move scores too, as matrices. The backward pass repeats it twice.
SCORE_TRAFFIC: Final = 2 * 2 * 2.0 + 1.0


def has_flash_attention(device: DeviceProfile) -> bool:
    """Whether a GPU runs flash attention; one without a compute capability (another vendor's) has its own kernel.

    Examples
    --------
    >>> from planner.cluster import load_device
    >>> [has_flash_attention(load_device(name)) for name in ("t4", "v100_sxm_32", "a100_sxm_80", "b200", "mi300x")]
    [False, False, True, True, True]
    """
    if device.compute_capability is None:
        return True
    major, _, minor = device.compute_capability.partition(".")
    return (int(major), int(minor or 0)) >= _FLASH_CAPABILITY


def score_bytes_K(model: ModelSpec, tp: int, sequence_length: float) -> Array:
    """Bytes per token that a layer of each kind keeps of its attention scores, on each GPU of a group.

    Examples
    --------
    >>> from planner.model import load_model
    >>> score_bytes_K(load_model("llama-3.1-8b"), 4, 2048) == 5 * 32 / 4 * 2048
    array([ True])
    """
    return np.array([_SCORE_BYTES * kind.attention.heads / tp * sequence_length for kind in model.kinds])


def training_precision(cluster: Cluster, gpus: Iterable[str]) -> Literal["bf16", "fp16"]:
    """Format that a job computes in: bf16 where all of its GPUs have it, else fp16."""
    nodes = dict.fromkeys(cluster.node_of(gpu) for gpu in gpus)
    return "bf16" if all("bf16" in cluster.class_of_node(node).device.flops for node in nodes) else "fp16"


def sequence_parallel_fault(model: ModelSpec, engine: EngineProfile, tp: int, *, sequence_parallel: bool) -> str | None:
    """Reason why an engine refuses a tensor-parallel degree without sequence parallelism; None if it does not.

    Megatron-Core does where there are experts. An engine that has no such option is not asked.
    """
    experts = any(kind.experts for kind in model.kinds)
    if tp == 1 or sequence_parallel or not experts or "sequence_parallel" not in engine.arguments:
        return None
    return f"{engine.title} trains experts with TP {tp} only together with sequence parallelism"
