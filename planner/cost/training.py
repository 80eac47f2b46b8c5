"""How long one training iteration takes: the closed form of 1F1B, priced with the links that a plan really gets.

``T = (m - 1) max_s z_s + sum_s z_s + max_s (g_s + u_s) + e + o`` with m microbatches per iteration and

* ``z_s = t_s + 2 h_s``: stage s, forward and backward of one microbatch on its slowest replica
  (`planner.cost.training_stage`), and the hop to the next stage, activations there and gradients back. 1F1B holds
  just enough microbatches to hide the other stages' work, not the way to them: a round trip lengthens the cycle, so
  hops are charged to the sending stage and not overlapped;
* ``g_s``: gradients summed over the data-parallel groups of the stage, in fp32 as they are accumulated. ZeRO 0: one
  ring all-reduce of 4 bytes per parameter. ZeRO 1: a reduce-scatter of the same and an all-gather of the 2-byte
  weights. After the last backward pass and not overlapped with it;
* ``u_s``: the optimizer's update, bound by memory: Adam reads gradient and state and writes state and weight, 30
  bytes per parameter; divided over the groups with ZeRO 1. Stages finish on their own; the slowest ends the
  iteration;
* ``e``: where embeddings are tied and sit on two stages, the exchange of their gradients;
* ``o``: the engine's overhead per iteration.

Interleaved over v model chunks a stage hops v times per microbatch, and the pipeline fills with one chunk of each:
``T = m max_s z_s + (sum_s z_s - max_s z_s) / v + ...``. What a run overlaps (`planner.cost.training_options`) counts as
far as it stays in view.

The bubble of 1F1B is in the first two terms: with equal stages they are ``(m + S - 1) z``.

`predict_training` prices one explicit plan and makes its figures; the search, `estimate` and the verifier all use it.

Legend: S stage, B batch of candidates.

References
----------
D. Narayanan et al., "PipeDream", SOSP 2019, and "Efficient large-scale language model training on GPU clusters using
Megatron-LM", SC 2021, section 2.2: 1F1B and its bubble.
L. Zheng et al., "Alpa", OSDI 2022, section 5.2: ``sum + (m - 1) max``.
S. Rajbhandari et al., "ZeRO", SC 2020, section 7.2: volume of reduce-scatter and all-gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.training_breakdown import Breakdown, break_down
from planner.cost.training_experts import expert_collectives
from planner.cost.training_figures import training_figures
from planner.cost.training_links import Groups, gradient_rings, hop_terms
from planner.cost.training_memory import GRADIENT_BYTES
from planner.cost.training_options import PLAIN, RunOptions
from planner.cost.training_replica import StageLike, dp_groups, price_stage
from planner.cost.training_stage import StageWork, mixed_precision
from planner.dtypes import DTYPE_BYTES
from planner.engine.chunks import chunk_layers
from planner.plan.figure import Figure

if TYPE_CHECKING:
    from planner.cluster import Cluster, Link
    from planner.cost._types import Array, IntArray
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import Schedule, TrainingJob

__all__ = [
    "TrainingPrediction",
    "boundary_bytes",
    "context_link",
    "pipeline_time",
    "predict_training",
    "straggling",
    "tied_exchange",
]

# GPUs, one node, that keep step.
_STEADY_GPUS: Final = 8.0


def pipeline_time(stage_BS: Array, microbatches_B: IntArray | int, chunks: int = 1) -> Array:
    """Seconds from the first microbatch's start to the last one's end, ``m max + (sum - max) / v``.

    Parameters
    ----------
    stage_BS
        Seconds of each stage for one microbatch, hops included; 0 for stages that a candidate does not have.
    microbatches_B
        Microbatches per iteration.
    chunks
        Of the model on each GPU (interleaved 1F1B): the pipeline fills with one chunk of each stage.

    Examples
    --------
    >>> float(pipeline_time(np.full((1, 4), 2.0), 8)[0]) == (8 + 4 - 1) * 2.0
    True
    """
    slowest_B, sum_B = stage_BS.max(axis=-1), stage_BS.sum(axis=-1)
    if chunks == 1:
        return np.asarray((np.asarray(microbatches_B) - 1) * slowest_B + sum_B)
    return np.asarray(np.asarray(microbatches_B) * slowest_B + (sum_B - slowest_B) / chunks)


def straggling(engine: EngineProfile, gpus: int) -> float:
    """Factor on an iteration for waiting for the slowest of so many GPUs."""
    return 1.0 + engine.training.straggling.value * max(float(np.log2(gpus / _STEADY_GPUS)), 0.0)


def boundary_bytes(model: ModelSpec, job: TrainingJob) -> float:
    """Bytes of activations of one sequence between two stages."""
    return job.sequence_length * model.hidden * DTYPE_BYTES[model.dtype]


def context_link(cluster: Cluster, groups: Groups, context_parallel: int) -> Link | None:
    """Slowest link between neighbours of the first context-parallel group."""
    if context_parallel == 1:
        return None
    ring = groups[:context_parallel]
    links = [cluster.link(one[0], ring[(i + 1) % len(ring)][0]) for i, one in enumerate(ring)]
    return min(links, key=lambda link: link.bandwidth)


def _kinds_held(model: ModelSpec, stages: Sequence[StageLike], virtual_stages: int) -> list[IntArray]:
    """Layers of each kind on each stage, chunk by chunk."""
    kind_L = np.asarray(model.kind_of_layer)
    ranges_S: Sequence[Sequence[tuple[int, int]]] = [(stage.layers,) for stage in stages]
    if virtual_stages > 1:
        ranges_S = chunk_layers([stage.layers[1] - stage.layers[0] for stage in stages], virtual_stages)
    return [
        np.bincount(np.concatenate([kind_L[slice(*chunk)] for chunk in ranges]), minlength=len(model.kinds))
        for ranges in ranges_S
    ]


def tied_exchange(cluster: Cluster, model: ModelSpec, stages: Sequence[Groups]) -> float:
    """Seconds to add up the gradients of tied embeddings that sit on two stages; 0 where they do not.

    Each rank of the first stage and its counterpart of the last form a ring of two, all at once: either sends as many
    bytes as the gradient has.
    """
    if not model.tied_embeddings or len(stages) == 1:
        return 0.0
    first, last = stages[0], stages[-1]
    size = GRADIENT_BYTES * model.embedding_params / min(len(first[0]), len(last[0]))
    terms = hop_terms(cluster, first, last, (1,) * len(first), sequence_parallel=False)
    return float(terms.seconds(np.array(size)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingPrediction:
    """What an explicit plan is predicted to do.

    Parameters
    ----------
    iteration_time
        Seconds.
    work_S, hop_S, update_S
        Seconds of each stage: one microbatch, the hops behind it in both directions, gradient sync with optimizer.
    forward_S, sync_S
        Of these, the forward pass and the gradient sync.
    tied
        Seconds to add up the gradients of tied embeddings.
    memory_S, limit_S
        Bytes on each GPU of a stage (of the tightest type, where types are mixed), and what the engine may use.
    breakdown
        Where the seconds go.
    figures
        By name, as they stand in the plan.
    """

    iteration_time: float
    work_S: Array
    hop_S: Array
    update_S: Array
    forward_S: Array
    sync_S: Array
    tied: float
    memory_S: tuple[Figure, ...]
    limit_S: tuple[float, ...]
    breakdown: Breakdown
    figures: dict[str, Figure]


def predict_training(
    model: ModelSpec,
    cluster: Cluster,
    engine: EngineProfile,
    job: TrainingJob,
    stages: Sequence[StageLike],
    schedule: Schedule,
    options: RunOptions = PLAIN,
) -> TrainingPrediction:
    """Price one explicit plan.

    Parameters
    ----------
    model, cluster, engine, job
        What to train, where, under which engine, with which batch.
    stages
        In order; their layers must cover the model and their GPUs be in the cluster.
    schedule
        Microbatches, recomputation, and how sequences, stages and experts are divided. With context parallelism a
        stage has that many groups for each data-parallel rank, one after the other, and each takes its part of the
        rank's sequences; with expert parallelism so many neighbours hold different experts.
    options
        Formats and overlaps.

    Returns
    -------
    TrainingPrediction
        The plan need not fit: compare `memory_S` with `limit_S`.
    """
    model = mixed_precision(model)
    groups_S = [dp_groups(stage) for stage in stages]
    rings = gradient_rings(cluster, groups_S)
    exchanges = expert_collectives(cluster, groups_S, schedule.expert_parallel)
    expert_rings = gradient_rings(cluster, groups_S, every=schedule.expert_parallel) if exchanges[0] else None
    kinds_SK = _kinds_held(model, stages, schedule.virtual_stages)
    known: dict[tuple[object, ...], StageWork] = {}
    priced = [
        price_stage(
            model,
            cluster,
            engine,
            job,
            schedule,
            stage,
            position=s,
            stages=len(stages),
            ring=rings[s],
            known=known,
            kinds_K=kinds_SK[s],
            options=options,
            context_link=context_link(cluster, groups_S[s], schedule.context_parallel),
            expert_exchange=exchanges[s],
            expert_ring=expert_rings[s] if expert_rings else None,
        )
        for s, stage in enumerate(stages)
    ]
    hop_S = np.zeros(len(stages))
    for s in range(len(stages) - 1):
        shares = stages[s].microbatch_shares
        terms = hop_terms(cluster, groups_S[s], groups_S[s + 1], shares, sequence_parallel=schedule.sequence_parallel)
        size = boundary_bytes(model, job) / schedule.context_parallel
        hop_S[s] = 2.0 * schedule.virtual_stages * float(terms.seconds(np.array(size)))
    if schedule.virtual_stages > 1:
        hop_S[-1] = hop_S[:-1].max(initial=0.0)  # from the last stage back to the first one's next chunk
        hop_S *= engine.training.hops.value if options.overlap else 1.0
    work_S = np.array([stage.seconds for stage in priced])
    update_S = np.array([stage.update for stage in priced])
    pipeline = float(pipeline_time((work_S + hop_S)[None], schedule.microbatches, schedule.virtual_stages)[0])
    tied = tied_exchange(cluster, model, groups_S)
    total = pipeline + float(update_S.max()) + tied + engine.overhead.iteration.value
    if options.stragglers:
        total *= straggling(engine, sum(len(stage.devices) for stage in stages))
    return TrainingPrediction(
        iteration_time=total,
        work_S=work_S,
        hop_S=hop_S,
        update_S=update_S,
        forward_S=np.array([stage.forward for stage in priced]),
        sync_S=np.array([stage.sync for stage in priced]),
        tied=tied,
        memory_S=tuple(
            Figure(value=stage.memory, unit="bytes", error=stage.doubt / stage.memory, provenance="spec")
            for stage in priced
        ),
        limit_S=tuple(stage.limit for stage in priced),
        breakdown=break_down(priced, hop_S, microbatches=schedule.microbatches, pipeline=pipeline, total=total),
        figures=training_figures(
            model,
            cluster,
            job,
            stages,
            priced,
            microbatches=schedule.microbatches,
            hop_S=hop_S,
            pipeline=pipeline,
            total=total,
            run_error=engine.training.gemm.error,
        ),
    )
