"""Uniform training configurations: the same degrees everywhere, as a person sets them by hand.

All GPUs of one pool run one model with one tensor-, pipeline-, context-, expert- and data-parallel degree, one
microbatch size, one recomputation, one way to divide state. Legal is what an engine can be told and the model allows:

* TP divides a node, the heads and widths of the model, and the sequence where it is sequence parallel;
* TP x PP x CP x DP are all GPUs of the pool; DP divides the batch, a microbatch size what that leaves;
* PP and its virtual stages divide the layers; embedding and head, or one of them, may count as a layer; without virtual
  stages what is left over goes to stages in the middle where the engine can be told so;
* an interleaved pipeline takes microbatches in multiples of its stages;
* CP cuts sequences into two chunks each; EP divides the experts and the groups of a stage.

Whether a configuration fits memory is for its price to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from planner.cost.memory import tensor_parallel_fault
from planner.cost.training_attention import has_flash_attention, sequence_parallel_fault
from planner.cost.training_experts import expert_fault
from planner.engine import check_runnable
from planner.engine.chunks import chunk_fault

if TYPE_CHECKING:
    from planner.cluster import NodeClass
    from planner.cost.training_stage import Recompute
    from planner.search.problem import TrainingProblem

__all__ = [
    "MAX_MICROBATCH",
    "Cell",
    "Choices",
    "UniformConfiguration",
    "cells",
    "default_choices",
    "layer_splits",
    "uniform_faults",
]

ZeroStage = Literal[0, 1, 2, 3]

MAX_MICROBATCH: Final = 16
"""Sequences of a microbatch, at most: beyond that kernels gain nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What may be chosen beside the degrees.

    Parameters
    ----------
    zero_stages, recomputes
        Ways to divide state, and to recompute.
    sequence_parallel
        Whether tensor parallelism is sequence parallel where that is possible; else never.
    context_parallel
        Whether sequences may be divided over GPUs.
    """

    zero_stages: tuple[ZeroStage, ...] = (0, 1)
    recomputes: tuple[Recompute, ...] = ("none", "selective", "full")
    sequence_parallel: bool = True
    context_parallel: bool = True


def default_choices(problem: TrainingProblem, node_class: NodeClass) -> Choices:
    """What a person would try: the job's way to divide state; selective recomputation where it saves something."""
    flash = has_flash_attention(node_class.device)
    return Choices(
        zero_stages=(problem.job.zero_stage,),
        recomputes=("none", "full") if flash else ("none", "selective", "full"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Configurations that differ in microbatch size, recomputation and division of state only.

    Parameters
    ----------
    tp, cp, dp, ep
        Degrees; a stage has ``cp * dp`` tensor-parallel groups, of which `ep` in a row hold different experts.
    virtual_stages, layers
        Model chunks of a stage, and layers of each stage.
    sequence_parallel
        Of the tensor-parallel groups.
    """

    tp: int
    cp: int
    dp: int
    ep: int
    virtual_stages: int
    layers: tuple[int, ...]
    sequence_parallel: bool

    @property
    def pp(self) -> int:
        """Stages."""
        return len(self.layers)

    @property
    def groups(self) -> int:
        """Tensor-parallel groups of a stage."""
        return self.cp * self.dp


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformConfiguration:
    """One configuration: a cell with what is left to choose."""

    cell: Cell
    microbatch: int
    recompute: Recompute
    zero_stage: ZeroStage


def layer_splits(layers: int, stages: int, virtual_stages: int, *, uneven: bool) -> list[tuple[int, ...]]:
    """Ways to give stages their layers.

    Parameters
    ----------
    layers, stages, virtual_stages
        Of the model, of the pipeline, and chunks of a stage.
    uneven
        Whether the engine can be told of stages that differ by more than the embedding and the head.

    Examples
    --------
    >>> layer_splits(8, 2, 2, uneven=False), layer_splits(6, 4, 1, uneven=False)
    ([(4, 4)], [(1, 2, 2, 1)])
    >>> layer_splits(10, 4, 1, uneven=True)
    [(2, 3, 3, 2)]
    """
    if stages == 1:
        return [(layers,)] if virtual_stages == 1 else []
    found: dict[tuple[int, ...], None] = {}
    for first, last in ((0, 0), (0, 1), (1, 0), (1, 1)):
        each, rest = divmod(layers + first + last, stages)
        split = (each - first, *(each,) * (stages - 2), each - last)
        if rest == 0 and min(split) >= 1 and chunk_fault(split, virtual_stages) is None:
            found[split] = None
    if not found and uneven and virtual_stages == 1 and layers >= stages:
        each, rest = divmod(layers, stages)
        start = (stages - rest) // 2
        found[tuple(each + (start <= s < start + rest) for s in range(stages))] = None
    return list(found)


def cells(problem: TrainingProblem, node_class: NodeClass, gpus: int, choices: Choices) -> Iterator[Cell]:
    """All legal cells on so many GPUs of a pool, in a fixed order."""
    model, engine, job = problem.model, problem.engine, problem.job
    layers = model.num_layers
    most_stages = min(layers, problem.max_stages or layers)
    if check_runnable(engine, tp_per_stage=[1], layers_per_stage=[layers], task="training"):
        return
    for tp in _divisors(node_class.gpus_per_node):
        if gpus % tp or tensor_parallel_fault(model, tp) is not None:
            continue
        for pp in _divisors(gpus // tp):
            if pp > most_stages or (pp > 1 and not engine.pipeline) or pp > (engine.max_pipeline or pp):
                continue
            groups = gpus // tp // pp
            for cp in _context_degrees(problem, groups, choices):
                dp = groups // cp
                parallel = choices.sequence_parallel and tp > 1 and job.sequence_length % (tp * cp) == 0
                if job.global_batch % dp or sequence_parallel_fault(model, engine, tp, sequence_parallel=parallel):
                    continue
                for ep in _expert_degrees(problem, groups):
                    for virtual_stages in range(1, layers // pp + 2 if engine.interleaving and pp > 1 else 2):
                        if virtual_stages > 1 and job.global_batch // dp % pp:
                            continue  # no microbatch size makes a multiple of the stages
                        for split in layer_splits(layers, pp, virtual_stages, uneven=engine.uneven_layers):
                            yield Cell(
                                tp=tp,
                                cp=cp,
                                dp=dp,
                                ep=ep,
                                virtual_stages=virtual_stages,
                                layers=split,
                                sequence_parallel=parallel,
                            )


def uniform_faults(problem: TrainingProblem, node_class: NodeClass, one: UniformConfiguration) -> list[str]:
    """Everything that keeps a given configuration from running on a pool, memory apart; none for a legal one."""
    model, engine, job, cell = problem.model, problem.engine, problem.job, one.cell
    gpus, have = cell.tp * cell.pp * cell.groups, len(node_class.nodes) * node_class.gpus_per_node
    faults = check_runnable(
        engine,
        tp_per_stage=[cell.tp] * cell.pp,
        layers_per_stage=cell.layers,
        task="training",
        data_parallel=cell.groups,
        expert_parallel=cell.ep,
        context_parallel=cell.cp,
        virtual_stages=cell.virtual_stages,
        zero_stage=one.zero_stage,
    )
    if gpus > have:
        faults.append(f"TP {cell.tp} x PP {cell.pp} x CP {cell.cp} x DP {cell.dp} are {gpus} GPUs; there are {have}")
    if node_class.gpus_per_node % cell.tp:
        faults.append(f"TP {cell.tp} does not divide the {node_class.gpus_per_node} GPUs of a node")
    if sum(cell.layers) != model.num_layers:
        faults.append(f"stages of {sum(cell.layers)} layers for the {model.num_layers} of {model.name}")
    microbatches, rest = divmod(job.global_batch, cell.dp * one.microbatch)
    if rest:
        faults.append(f"DP {cell.dp} x microbatches of {one.microbatch} do not divide the batch of {job.global_batch}")
    elif cell.virtual_stages > 1 and microbatches % cell.pp:
        faults.append(f"{microbatches} microbatches are no multiple of the {cell.pp} stages of an interleaved pipeline")
    if cell.cp > 1 and job.sequence_length % (2 * cell.cp):
        faults.append(f"CP {cell.cp} takes two chunks each of {job.sequence_length} tokens, which do not divide")
    if cell.sequence_parallel and (cell.tp == 1 or job.sequence_length % (cell.tp * cell.cp)):
        faults.append(f"sequence parallelism with TP {cell.tp} on {job.sequence_length} / {cell.cp} tokens")
    found = (
        tensor_parallel_fault(model, cell.tp),
        chunk_fault(cell.layers, cell.virtual_stages),
        expert_fault(model, cell.ep, cell.groups),
        sequence_parallel_fault(model, engine, cell.tp, sequence_parallel=cell.sequence_parallel),
    )
    return faults + [fault for fault in found if fault is not None]


def _context_degrees(problem: TrainingProblem, groups: int, choices: Choices) -> list[int]:
    length = problem.job.sequence_length
    if not (choices.context_parallel and problem.engine.context_parallel):
        return [1]
    powers = [2**exponent for exponent in range(groups.bit_length())]
    return [cp for cp in powers if groups % cp == 0 and (cp == 1 or length % (2 * cp) == 0)]


def _expert_degrees(problem: TrainingProblem, groups: int) -> list[int]:
    if not (problem.engine.expert_parallel and any(kind.experts for kind in problem.model.kinds)):
        return [1]
    return [ep for ep in _divisors(groups) if expert_fault(problem.model, ep, groups) is None]


def _divisors(number: int) -> Sequence[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
