"""Replicas of one role that a plan may be made of: prefill and decode templates, all priced.

A template of one role is a pipeline of equal stages: one node class, one TP. Prefill templates are made for the classes
that decode what they prefill, all those with equally good paths to them: the path is part of TTFT and bounds the rate.
There are a few
hundred of both, so each is priced where it is made: decode templates by the pricer of all others for a demand without
prompts, prefill templates by the interval dynamic program, whose bottleneck no other layer split beats.

Templates that a smaller one, or several of it, replace at no loss are left out.

Legend: T template, J stage kind, B batch of pipelines, S stage, L layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.disaggregated import decode_step
from planner.cost.memory import cached_tokens_L
from planner.cost.network import node_collective
from planner.cost.replica import Operation, PipelineStage, ReplicaPricer
from planner.cost.roles import DecodeReplica, PrefillReplica, kv_path, receiving_time, step_share
from planner.cost.serving import Demand
from planner.partition import StageCosts, partition_layers
from planner.search.links import fastest_link
from planner.search.template_pool import most_stages
from planner.search.template_pricer import TemplatePricer
from planner.solvers.fleet_columns import DECODE, PREFILL
from planner.solvers.master import packs_by_sum
from planner.workload import Slo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster, Link
    from planner.cost._types import Array, IntArray
    from planner.search.problem import ServingProblem
    from planner.search.templates import StageKind, Templates

__all__ = ["RoleTemplates", "equal_stages", "places_of", "reaches", "role_templates"]

_NEAR: Final = 1 - 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTemplates:
    """Templates of one role each.

    Parameters
    ----------
    kind_T, stages_T
        Stage kind, and how many stages of it.
    role_T
        `planner.solvers.fleet_columns.PREFILL` or `DECODE`.
    from_T, to_T
        Of prefill templates their node class and which of `reach` decodes, of decode templates -1 and their place:
        their node class, or beyond the number of classes the inside of the class's one node.
    reach
        Places.
    bounds
        First layer of each stage, and the number of layers at the end.
    rate_T, bound_T
        Requests/s with these layers and the fastest links between stages, and with any layers at most.
    kinds
        How many stage kinds there are.
    """

    kind_T: IntArray
    stages_T: IntArray
    role_T: IntArray
    from_T: IntArray
    to_T: IntArray
    reach: tuple[tuple[int, ...], ...]
    bounds: tuple[tuple[int, ...], ...]
    rate_T: Array
    bound_T: Array
    kinds: int

    @property
    def chunks_TJ(self) -> IntArray:
        """Stages of each kind."""
        return np.asarray(self.stages_T[:, None] * (self.kind_T[:, None] == np.arange(self.kinds)), dtype=np.int64)

    @property
    def able(self) -> bool:
        """Whether some class prefills for one that decodes."""
        decoding = set(self.to_T[self.role_T == DECODE].tolist())
        return any(decoding & set(self.reach[g]) for g in self.to_T[self.role_T == PREFILL].tolist())


@dataclass(frozen=True, slots=True)
class _Template:
    kind: int
    stages: int
    role: int
    source: int
    target: int
    bounds: tuple[int, ...]
    rate: float
    bound: float


def role_templates(problem: ServingProblem, kinds: Sequence[StageKind], depth: int) -> RoleTemplates:
    """Make and price the templates of one role.

    Parameters
    ----------
    problem
        Model, cluster, engine and workload.
    kinds
        Stage kinds, by position.
    depth
        Most stages.
    """
    deepest = most_stages(problem, depth)
    pipelines = []
    for j, kind in enumerate(kinds):
        room = problem.cluster.classes[kind.node_class].num_gpus // kind.tp
        pipelines += [(j, stages) for stages in range(1, min(deepest, room) + 1)]
    found = _undominated(problem, kinds, [*_prefill(problem, kinds, pipelines), *_decode(problem, kinds, pipelines)])
    return RoleTemplates(
        kind_T=np.array([t.kind for t in found], dtype=np.int64),
        stages_T=np.array([t.stages for t in found], dtype=np.int64),
        role_T=np.array([t.role for t in found], dtype=np.int64),
        from_T=np.array([t.source for t in found], dtype=np.int64),
        to_T=np.array([t.target for t in found], dtype=np.int64),
        reach=tuple(places for _, places in reaches(problem.cluster)),
        bounds=tuple(t.bounds for t in found),
        rate_T=np.array([t.rate for t in found]),
        bound_T=np.array([t.bound for t in found]),
        kinds=len(kinds),
    )


def equal_stages(problem: ServingProblem, kind: StageKind, bounds: Sequence[int]) -> list[PipelineStage]:
    """Pipeline of stages of one kind with the fastest links that a placement could give."""
    node_class = problem.cluster.classes[kind.node_class]
    collective = node_collective(node_class, kind.tp)
    inside, across = node_class.intra_link, fastest_link(problem.cluster, kind.node_class, kind.node_class)
    per_node = node_class.gpus_per_node // kind.tp
    stages = len(bounds) - 1

    def hop(s: int) -> Link | None:
        if stages == 1:
            return None
        # back to the first stage behind the last
        stays = stages <= per_node if s == stages - 1 else (s + 1) % per_node != 0
        if not stays:
            return across
        return type(inside).model_construct(
            bandwidth=max(inside.bandwidth, across.bandwidth), latency=min(inside.latency, across.latency)
        )

    return [
        PipelineStage(device=node_class.device, collective=collective, layers=(bounds[s], bounds[s + 1]), hop=hop(s))
        for s in range(stages)
    ]


def _prefill(
    problem: ServingProblem, kinds: Sequence[StageKind], pipelines: Sequence[tuple[int, int]]
) -> list[_Template]:
    """Price prefill templates, one for every set of classes that may decode over equally good paths."""
    model, engine, workload = problem.model, problem.engine, problem.workload
    ways = reaches(problem.cluster)
    found = []
    for (j, stages), bounds in zip(pipelines, _prefill_splits(problem, kinds, pipelines), strict=True):
        if bounds is None:
            continue
        own = kinds[j].node_class
        share, even = _largest_share(problem, stages), _even(problem, stages)
        made = {
            split: PrefillReplica(
                model, engine, workload, equal_stages(problem, kinds[j], split), kv_path(problem.cluster, own, own)
            )
            for split in dict.fromkeys((bounds, even))
        }
        for group, (source, places) in enumerate(ways):
            if source != own:
                continue
            path = kv_path(problem.cluster, own, places[0] % len(problem.cluster.classes))
            # stages are alike, so that only the bottleneck, which is least here, and the transfer depend on the split
            bound = made[bounds].towards(path, share).goodput()
            rates = {split: one.towards(path).goodput() for split, one in made.items()}
            best = max(rates, key=lambda split: rates[split])
            if rates[best] > 0:
                found.append(_Template(j, stages, PREFILL, own, group, best, rates[best], max(bound, rates[best])))
    return found


def _prefill_splits(
    problem: ServingProblem, kinds: Sequence[StageKind], pipelines: Sequence[tuple[int, int]]
) -> list[tuple[int, ...] | None]:
    """Layer split of each pipeline with the least time of the slowest stage; None where the memory does not do."""
    model, lengths = problem.model, problem.workload.prompt
    width = max((stages for _, stages in pipelines), default=1)
    kind_of_layer = np.asarray(model.kind_of_layer)
    B = len(pipelines)
    layer_BSL, memory_BSL = np.zeros((B, width, model.num_layers)), np.zeros((B, width, model.num_layers))
    fixed_BS, ends_BS, capacity_BS = (np.zeros((B, width)) for _ in range(3))
    for j in sorted({j for j, _ in pipelines}):
        rows = [b for b, (k, _) in enumerate(pipelines) if k == j]
        whole = ReplicaPricer(
            model, problem.engine, problem.workload, equal_stages(problem, kinds[j], (0, model.num_layers))
        )
        time_K, first, last = whole.prompt_parts(whole.demand.prompt)
        budget = whole.budgets[0]
        weights_L, cache_L, embedding, head = whole.memory_parts()
        for b in rows:
            stages = pipelines[b][1]
            layer_BSL[b, :stages] = time_K[kind_of_layer]
            fixed_BS[b, 0] += first
            fixed_BS[b, stages - 1] += last
            tokens_L = cached_tokens_L(model, np.array(float(stages)), lengths.mean, lengths.max)
            memory_BSL[b, :stages] = weights_L + budget.kv_weight * cache_L * tokens_L
            ends_BS[b, 0] += embedding
            ends_BS[b, stages - 1] += 0.0 if model.tied_embeddings and stages == 1 else head
            capacity_BS[b] = budget.capacity
    if not B:
        return []
    split = partition_layers(
        StageCosts(
            layer_BSL=layer_BSL,
            fixed_BS=fixed_BS,
            memory_BSL=memory_BSL,
            memory_fixed_BS=ends_BS,
            capacity_BS=capacity_BS,
            stages_B=np.array([stages for _, stages in pipelines]),
        ),
        "bottleneck",
    )
    return [
        tuple(int(x) for x in split.bounds_BS1[b][: stages + 1]) if split.feasible_B[b] else None
        for b, (_, stages) in enumerate(pipelines)
    ]


def _decode(
    problem: ServingProblem, kinds: Sequence[StageKind], pipelines: Sequence[tuple[int, int]]
) -> list[_Template]:
    """Price decode templates."""
    limit = step_share(problem.workload.slo)
    slo = Slo(tpot=None if math.isinf(limit) else limit, percentile=problem.workload.slo.percentile)
    pricer = TemplatePricer(replace(problem, workload=problem.workload.with_slo(slo)), kinds, step=decode_step())
    priced = pricer.price([(j,) * stages for j, stages in pipelines])
    roughly = _undominated(problem, kinds, _decode_templates(problem, kinds, pipelines, priced))
    rows = [b for b, one in enumerate(pipelines) if one in {(t.kind, t.stages) for t in roughly}]
    if not rows:
        return []
    exact = pricer.exhausted(priced.take(rows))
    return _decode_templates(problem, kinds, [pipelines[b] for b in rows], exact)


def _decode_templates(
    problem: ServingProblem, kinds: Sequence[StageKind], pipelines: Sequence[tuple[int, int]], priced: Templates
) -> list[_Template]:
    """Hold priced pipelines to what their GPUs can receive, in every place that they may take over in."""
    tokens = Demand.of(problem.workload, problem.engine).prompt
    found = []
    for b, (j, stages) in enumerate(pipelines):
        if priced.rate_B[b] <= 0:
            continue
        own = kinds[j].node_class
        bounds = tuple(int(x) for x in priced.bounds_BS1[b][: stages + 1])
        stack = equal_stages(problem, kinds[j], bounds)
        whole = equal_stages(problem, kinds[j], (0, problem.model.num_layers))
        share = _largest_share(problem, stages)
        for place, source in _sources(problem, own):
            path = kv_path(problem.cluster, source, own)
            # no split receives less at its busiest stage than an equal part of the layers
            busy = receiving_time(problem.model, stack, path, tokens)
            least = receiving_time(problem.model, whole, path, tokens) * share
            most, most_of_any = (1.0 / x if x > 0 else math.inf for x in (busy, least))
            rate, bound = (float(x) for x in (priced.rate_B[b], priced.bound_B[b]))
            split = bounds
            if rate > most:  # the fastest split does not receive the most
                even = _even(problem, stages)
                found_even = DecodeReplica(
                    problem.model, problem.engine, problem.workload, equal_stages(problem, kinds[j], even), path
                ).goodput()
                if isinstance(found_even, Operation) and found_even.rate > most:
                    rate, split = found_even.rate, even
                else:
                    rate = most
            found.append(_Template(j, stages, DECODE, -1, place, split, rate, min(bound, most_of_any)))
    return found


def _largest_share(problem: ServingProblem, stages: int) -> float:
    """Share of the layers that the fullest of some stages has at least; of layers that are alike a whole number."""
    layers, alike = problem.model.num_layers, len(problem.model.kinds) == 1
    return math.ceil(layers / stages) / layers if alike else 1.0 / stages


def _even(problem: ServingProblem, stages: int) -> tuple[int, ...]:
    """Split of the layers in which no stage has more than it must."""
    return tuple(-(-problem.model.num_layers * s // stages) for s in range(stages + 1))


def places_of(cluster: Cluster, source: int, target: int) -> list[int]:
    """Places in the master program that a class hands KV caches on to.

    Those who decode in a class take them over the network card, and then at its pace whoever sends them. In a class of
    one node others may take over from inside the node alone.
    """
    inside = source == target and len(cluster.classes[target].nodes) == 1
    return [target, target + len(cluster.classes)] if inside else [target]


def reaches(cluster: Cluster) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Class, and places that it hands KV caches on to over equally good paths: what prefill replicas are made for."""
    classes = range(len(cluster.classes))
    found: dict[tuple[int, float, float, float], list[int]] = {}
    for source in classes:
        for target in classes:
            path = kv_path(cluster, source, target)
            key = (source, path.latency, path.out, path.link)
            found.setdefault(key, []).extend(places_of(cluster, source, target))
    return tuple((key[0], tuple(sorted(places))) for key, places in found.items())


def _sources(problem: ServingProblem, own: int) -> list[tuple[int, int]]:
    """Places in which a class may take KV caches over, each with a class whose path to it counts."""
    classes = range(len(problem.cluster.classes))
    inside = len(problem.cluster.classes[own].nodes) == 1
    others = [source for source in classes if source != own or not inside]
    return [(own, source) for source in others[:1]] + ([(own + len(classes), own)] if inside else [])


def _undominated(
    problem: ServingProblem, kinds: Sequence[StageKind], templates: Sequence[_Template]
) -> list[_Template]:
    """Leave out what copies of a template of the same role and places replace: no more GPUs, no less served.

    Only where GPUs alone decide what fits: where the TP degrees divide each other and the node.
    """
    simple = [
        packs_by_sum([kind.tp for kind in kinds if kind.node_class == c], node_class.gpus_per_node)
        for c, node_class in enumerate(problem.cluster.classes)
    ]

    def gpus(t: _Template) -> int:
        return kinds[t.kind].tp * t.stages

    kept: list[_Template] = []
    groups: dict[tuple[int, int, int], list[_Template]] = {}
    for t in templates:
        groups.setdefault((t.role, t.source, t.target), []).append(t)
    for (role, source, target), group in groups.items():
        if not simple[source if role == PREFILL else target % len(simple)]:
            kept += group
            continue
        best: list[_Template] = []
        for t in sorted(group, key=lambda t: (gpus(t), -t.rate, t.stages)):
            if not any(gpus(t) // gpus(o) * o.rate >= t.bound * _NEAR for o in best):
                best.append(t)
        kept += best
    return kept
