"""What expert parallelism changes of a training stage: who multiplies which experts, and what is sent for it.

E of a stage's tensor-parallel groups, next to each other among its data-parallel (and context-parallel) groups, hold
different experts; each expert is cut over the tensor-parallel ranks as every other matrix is. A layer then

* multiplies on each GPU what all E groups send to its experts: on average as much as before, by fewer and better
  filled experts, and by as much more as the router loads the busiest group above the mean (`planner.cost.routing`;
  less uneven than where models serve, since a loss evens routers out while they learn);
* sends every token to its experts and their results back: two all-to-alls among the GPUs of equal rank in the E
  groups, in the forward pass and in the backward pass; with sequence parallelism each rank sends its part. None of it
  is hidden;
* gathers and scatters inside a tensor-parallel group ``top_k`` copies of a token where it did one.

Gradients of experts are summed over every E-th group only, and their state is divided over these.

Legend: K layer kind, B number of sequences in a microbatch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.network import Collective, group_collective
from planner.cost.routing import Routing
from planner.dtypes import DTYPE_BYTES

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.cost._types import Array
    from planner.cost.device import DeviceOperators
    from planner.cost.training_links import Groups
    from planner.model import LayerKind, ModelSpec

__all__ = [
    "TRAINING_SKEW",
    "busiest_KB",
    "expert_collectives",
    "expert_fault",
    "expert_gemm_KB",
    "expert_parameters_K",
    "expert_saved_K",
    "expert_sends_KB",
]

# Standard deviation of the logarithm of how popular an expert is in training: an estimate between routers that
# benchmarks force to be even (0) and those of finished models on narrow loads (`planner.cost.routing.EXPERT_SKEW`, 1).
# The busiest of eight groups of one expert each then has a third more than the mean.
TRAINING_SKEW: Final = 0.25


def expert_fault(model: ModelSpec, expert_parallel: int, groups: int) -> str | None:
    """Why a degree of expert parallelism is not possible among so many groups of a stage, or None.

    Examples
    --------
    >>> from planner.model import load_model
    >>> expert_fault(load_model("mixtral-8x7b"), 3, 6)
    'EP 3 does not divide the 8 experts'
    """
    if expert_parallel == 1:
        return None
    experts = sorted({kind.experts for kind in model.kinds if kind.experts})
    if not experts:
        return f"EP {expert_parallel}, but the model has no experts"
    for number in experts:
        if number % expert_parallel:
            return f"EP {expert_parallel} does not divide the {number} experts"
    if groups % expert_parallel:
        return f"EP {expert_parallel} does not divide the {groups} groups of data and context parallelism"
    return None


def expert_parameters_K(model: ModelSpec, tp: int) -> Array:
    """Parameters of the routed experts of a layer of each kind on each GPU of a tensor-parallel group."""
    return np.array([sum(gemm.weights for gemm in kind.gemms if gemm.experts > 1) / tp for kind in model.kinds])


def busiest_KB(model: ModelSpec, tokens: Array, expert_parallel: int) -> Array:
    """Load of the busiest group of experts over the mean, by tokens of one group; 1 where there are no experts."""
    everyone = np.asarray(tokens, dtype=float) * expert_parallel
    ratios = [
        Routing(kind.experts, kind.top_k, TRAINING_SKEW).busiest(everyone, expert_parallel)
        if kind.experts
        else np.ones_like(everyone)
        for kind in model.kinds
    ]
    return np.stack(ratios)


def expert_gemm_KB(model: ModelSpec, operators: DeviceOperators, tp: int, tokens: Array, expert_parallel: int) -> Array:
    """Seconds of the routed experts' products on the busiest GPU, forward.

    Parameters
    ----------
    model
        With matrices in the format that is multiplied in.
    operators
        Of the GPU.
    tp, expert_parallel
        GPUs that share an expert, and groups that hold different ones.
    tokens
        Of one group.
    """
    busiest = busiest_KB(model, tokens, expert_parallel)
    times = [
        _experts(kind, model, operators, tp, np.asarray(tokens) * expert_parallel * ratio, expert_parallel)
        for kind, ratio in zip(model.kinds, busiest, strict=True)
    ]
    return np.stack(times)


def _experts(
    kind: LayerKind, model: ModelSpec, operators: DeviceOperators, tp: int, tokens: Array, expert_parallel: int
) -> Array:
    total = np.zeros_like(tokens)
    for gemm in kind.gemms:
        if gemm.experts > 1:
            total = total + operators.grouped_gemm(
                tokens,
                gemm.n / tp if gemm.split == "column" else gemm.n,
                gemm.k / tp if gemm.split == "row" else gemm.k,
                gemm.experts / expert_parallel,
                gemm.top_k / expert_parallel,
                gemm.dtype,
                model.dtype,
            )
    return total


def expert_sends_KB(
    model: ModelSpec, tokens: Array, among: Collective, group: Collective, *, sequence_parallel: bool
) -> Array:
    """Seconds of sending tokens to their experts and results back, one pass.

    Parameters
    ----------
    model
        As it is trained.
    tokens
        Of one group.
    among, group
        GPUs of equal rank in the groups that hold different experts, and one tensor-parallel group.
    sequence_parallel
        Whether each rank of a group sends its part.
    """
    busiest = busiest_KB(model, tokens, among.size)
    width = model.hidden * DTYPE_BYTES[model.dtype]
    divided = group.size if sequence_parallel else 1
    rows = []
    for kind, ratio in zip(model.kinds, busiest, strict=True):
        if not kind.experts:
            rows.append(np.zeros_like(ratio))
            continue
        copies = np.asarray(tokens) * kind.top_k * ratio * width
        inside = group.all_reduce(copies) - group.all_reduce(np.asarray(tokens) * width)
        rows.append(2.0 * among.all_to_all(copies / divided) + np.maximum(inside, 0.0))
    return np.stack(rows)


def expert_saved_K(model: ModelSpec, tp: int) -> Array:
    """Bytes per token that a layer of each kind keeps of what its experts take in and make, evenly loaded."""
    number = DTYPE_BYTES[model.dtype]
    saved = []
    for kind in model.kinds:
        width = sum(gemm.k * gemm.top_k for gemm in kind.gemms if gemm.experts > 1 and gemm.split == "row")
        inside = (3 if kind.gated else 2) * width / tp
        saved.append(number * (kind.top_k * model.hidden + inside) if kind.experts else 0.0)
    return np.array(saved)


def expert_collectives(cluster: Cluster, stages: Sequence[Groups], expert_parallel: int) -> list[Collective | None]:
    """All-to-all of each stage among groups that hold different experts, all stages at once; None without any.

    A node's card is shared by all GPUs behind it whose groups reach beyond the node, and carries only what leaves.
    """
    if expert_parallel == 1:
        return [None] * len(stages)
    leaving: Counter[str] = Counter()
    blocks_SX = [[groups[g : g + expert_parallel] for g in range(0, len(groups), expert_parallel)] for groups in stages]
    for blocks in blocks_SX:
        for block in blocks:
            nodes = [cluster.node_of(group[0]) for group in block]
            if len(set(nodes)) > 1:
                for node, group in zip(nodes, block, strict=True):
                    leaving[node] += len(group)
    answer: list[Collective | None] = []
    for blocks in blocks_SX:
        known = dict.fromkeys(tuple(group[0] for group in block) for block in blocks)
        answer.append(
            min((_all_to_all(cluster, heads, leaving) for heads in known), key=lambda one: (one.bandwidth, one.size))
        )
    return answer


def _all_to_all(cluster: Cluster, gpus: tuple[str, ...], leaving: Counter[str]) -> Collective:
    """All-to-all of one group; its messages start together, so that one latency counts and not one after the other."""
    size = len(gpus)
    at: dict[str, str] = {}
    here = Counter(cluster.node_of(gpu) for gpu in gpus)
    for gpu in gpus:
        at.setdefault(cluster.node_of(gpu), gpu)
    if len(here) == 1:
        one = group_collective(cluster, gpus)
        return one if "all_to_all" in one.others else replace(one, latency=one.latency / (size - 1))
    # the links between nodes are the slowest: one GPU of each node stands for all of its
    one = group_collective(cluster, tuple(at.values()), sharing=max(leaving[node] for node in here))
    leaves = size - min(here.values())
    return replace(
        one, size=size, latency=one.latency / (len(at) - 1), bandwidth=one.bandwidth * (size - 1) / leaves, points=None
    )
