"""Every kind of stage that a training search may use, priced once: node class with tensor-parallel degree.

Sequence parallelism is never slower and never larger, so that a pipeline has it wherever all of its tensor-parallel
degrees divide its sequences: the kinds of a pipeline have it or not, all together (`StageClasses.joinable`). Those
without tensor parallelism go with either.

A kind's compute and memory follow from a few numbers per microbatch size and recomputation; what depends on the GPUs a
stage really gets, hops and gradient rings, is `planner.search.training.job_links`.

Legend: J kind of stage, D data-parallel degree, R recomputation, M microbatch size, K layer kind of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.memory import tensor_parallel_fault
from planner.cost.training import context_link
from planner.cost.training_attention import has_flash_attention, sequence_parallel_fault
from planner.cost.training_experts import expert_collectives, expert_parameters_K
from planner.cost.training_links import tensor_parallel_collective
from planner.cost.training_memory import activations, end_parameters, layer_parameters_K, memory_limit, state_bytes
from planner.cost.training_stage import Recompute, mixed_precision, stage_work
from planner.search.training_layout import class_groups

if TYPE_CHECKING:
    from planner.cost._types import Array
    from planner.search.problem import TrainingProblem

__all__ = ["StageClass", "StageClasses"]

# "selective" recomputes what flash attention does not keep: nothing but a slower "none" where every GPU has it.
_WITH_FLASH: Final[tuple[Recompute, ...]] = ("none", "full")
_WITHOUT_FLASH: Final[tuple[Recompute, ...]] = ("none", "selective", "full")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageClass:
    """One kind of stage.

    Parameters
    ----------
    node_class, tp, sequence_parallel
        Position of the node class in the cluster, tensor-parallel degree, and whether it divides sequences too.
    flash_attention
        Whether its GPUs have it.
    groups
        Tensor-parallel groups that the class offers, in the order in which stages take them.
    layer_RMK, first_M, last_M
        Seconds of a microbatch: a layer, and what the first and the last stage add.
    parameters_K, first_parameters, last_parameters, both_parameters
        Parameters per GPU: of a layer, and of what the first, the last or an only stage adds.
    apart_K
        Parameters of a layer's experts where groups hold different ones; `parameters_K` is then without them.
    saved_RMK, working_RM, logits_M
        Bytes of activations: per layer and microbatch in flight, once per stage, and on the last stage.
    limit
        Bytes that the engine may use on each GPU.
    """

    node_class: int
    tp: int
    sequence_parallel: bool
    flash_attention: bool
    groups: tuple[tuple[str, ...], ...]
    layer_RMK: Array
    first_M: Array
    last_M: Array
    parameters_K: Array
    apart_K: Array
    first_parameters: float
    last_parameters: float
    both_parameters: float
    saved_RMK: Array
    working_RM: Array
    logits_M: Array
    limit: float


class StageClasses:
    """All kinds of stage of a problem, with the links between them.

    Parameters
    ----------
    problem
        The problem.
    sizes
        Microbatch sizes, sequences per data-parallel group.
    max_stages
        Most stages of a pipeline.
    context_parallel, expert_parallel
        Groups that share each sequence, and groups that hold different experts; both are among the data-parallel ones.

    Attributes
    ----------
    classes
        The kinds.
    recomputes
        Ways to recompute that may pay.
    degrees
        Groups of a stage: data-parallel degrees, divisors of the batch, times `context_parallel`.
    microbatches_DM
        Microbatches per iteration; 0 where the batch does not divide.
    state_D
        Bytes per parameter of weight, gradient and optimizer.
    room_DJ
        Share of the model that a stage has room for, at most: layers only, and no activations.
    """

    def __init__(
        self,
        problem: TrainingProblem,
        sizes: tuple[int, ...],
        max_stages: int,
        *,
        context_parallel: int = 1,
        expert_parallel: int = 1,
    ) -> None:
        self.problem, self.sizes, self.max_stages = problem, sizes, max_stages
        self.context_parallel, self.expert_parallel = context_parallel, expert_parallel
        self.model = mixed_precision(problem.model)
        self.sequence_M = np.array(sizes, dtype=float)
        devices = [one.device for one in problem.cluster.classes]
        self.recomputes = _WITH_FLASH if all(map(has_flash_attention, devices)) else _WITHOUT_FLASH
        pairs = [(c, tp) for c in range(len(devices)) for tp in self._degrees(c)]
        undivided = any(not self._divides(tp) for _, tp in pairs)
        self.classes = tuple(
            self._price(node_class, tp, parallel)
            for node_class, tp in pairs
            for parallel in self._sequence_parallel(tp, undivided=undivided)
        )
        batch, most = problem.job.global_batch, max((len(one.groups) for one in self.classes), default=0)
        each = context_parallel
        self.degrees = tuple(
            d * each for d in range(1, most // each + 1) if batch % d == 0 and d * each % expert_parallel == 0
        )
        D = len(self.degrees)
        self.microbatches_DM = np.array(
            [[batch * each // (d * b) if batch * each % (d * b) == 0 else 0 for b in sizes] for d in self.degrees],
            dtype=np.int64,
        ).reshape(D, len(sizes))
        self.state_D = np.array([state_bytes(problem.job, d) for d in self.degrees])
        self.room_DJ = self._room_DJ()

    def _degrees(self, node_class: int) -> list[int]:
        """Powers of two that divide a node and that the model allows."""
        size = self.problem.cluster.classes[node_class].gpus_per_node
        degrees = [2**exponent for exponent in range(size.bit_length()) if size % 2**exponent == 0]
        degrees = [tp for tp in degrees if tensor_parallel_fault(self.problem.model, tp) is None]
        together = max(self.context_parallel, self.expert_parallel)
        return [tp for tp in degrees if self.problem.cluster.classes[node_class].num_gpus >= tp * together]

    def _divides(self, tp: int) -> bool:
        return self.problem.job.sequence_length % (tp * self.context_parallel) == 0

    def _sequence_parallel(self, tp: int, *, undivided: bool) -> list[bool]:
        """With sequence parallelism where that is possible; without where it, or that of another kind, is not."""
        problem = self.problem
        if tp == 1:
            return [False]
        mixed = undivided and problem.engine.tensor_parallel != "uniform"
        choices = [True] * self._divides(tp) + [False] * (mixed or not self._divides(tp))
        model, engine = problem.model, problem.engine
        return [p for p in choices if sequence_parallel_fault(model, engine, tp, sequence_parallel=p) is None]

    def joinable(self, kinds: Sequence[int]) -> bool:
        """Whether kinds may be in one pipeline: all with sequence parallelism if that is possible, else none."""
        split = [self.classes[j] for j in kinds if self.classes[j].tp > 1]
        possible = all(self._divides(one.tp) for one in split)
        return all(one.sequence_parallel == possible for one in split)

    def _room_DJ(self) -> Array:
        """Room of a stage over what it would take to hold all layers, in a unit that all kinds count alike."""
        count_K = np.bincount(np.asarray(self.model.kind_of_layer), minlength=len(self.model.kinds))
        room_DJ = np.zeros((len(self.degrees), len(self.classes)))
        for j, one in enumerate(self.classes):
            unit_K = self.classes[0].parameters_K
            whole = float((one.parameters_K / unit_K).min() * (unit_K @ count_K))
            room = one.limit - self.problem.engine.reserved_memory.value
            room_DJ[:, j] = max(room, 0.0) / (self.state_D * whole)
        return room_DJ

    def _price(self, node_class: int, tp: int, sequence_parallel: bool) -> StageClass:
        problem, model = self.problem, self.model
        device = problem.cluster.classes[node_class].device
        groups = class_groups(problem.cluster, node_class, tp)
        collective = tensor_parallel_collective(problem.cluster, groups[0])
        length, context, experts = problem.job.sequence_length, self.context_parallel, self.expert_parallel
        exchange = expert_collectives(problem.cluster, [groups[:experts]], experts)[0]
        works = [
            stage_work(
                model,
                device,
                collective,
                problem.engine,
                sequences_B=self.sequence_M,
                sequence_length=length,
                recompute=recompute,
                sequence_parallel=sequence_parallel,
                context_parallel=context,
                context_link=context_link(problem.cluster, groups, context),
                expert_exchange=exchange,
            )
            for recompute in self.recomputes
        ]
        held = [
            activations(
                model,
                tp,
                sequences_B=self.sequence_M,
                sequence_length=length / context,
                recompute=recompute,
                sequence_parallel=sequence_parallel,
                expert_parallel=experts,
                flash_attention=has_flash_attention(device),
            )
            for recompute in self.recomputes
        ]
        apart_K = expert_parameters_K(model, tp) * (experts > 1)
        return StageClass(
            node_class=node_class,
            tp=tp,
            sequence_parallel=sequence_parallel,
            flash_attention=has_flash_attention(device),
            groups=tuple(groups),
            layer_RMK=np.stack([work.layer_KB.T for work in works]),
            first_M=works[0].first_B,
            last_M=works[0].last_B,
            parameters_K=layer_parameters_K(model, tp) - apart_K,
            apart_K=apart_K / experts,
            first_parameters=end_parameters(model, tp, first=True, last=False),
            last_parameters=end_parameters(model, tp, first=False, last=True),
            both_parameters=end_parameters(model, tp, first=True, last=True),
            saved_RMK=np.stack([one.saved_KB.T for one in held]),
            working_RM=np.stack([one.working_B for one in held]),
            logits_M=held[0].logits_B,
            limit=memory_limit(device, problem.engine),
        )

    def most_stages(self, j: int, d: int) -> int:
        """Stages of a kind that the cluster has room for, no more than a pipeline may have."""
        return min(len(self.classes[j].groups) // self.degrees[d], self.max_stages)
