"""The best pipeline of a group of GPUs: HexGen's inner problem.

A group is how many GPUs it has of each node. The asymmetric pipeline DP (`planner.partition.asymmetric`) proposes
chains: for several loads, for the least latency and for the least bottleneck, with layers in about twenty portions and
the real links between the nodes. `ChainPricer` then splits the layers exactly and prices every proposal; the best
counts.

Groups that differ only in which of several equal nodes they use are one; so are equal chains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from planner.partition.asymmetric import Block, best_pipelines
from planner.search.chains import Chain, ChainPricer, ChainStage, PricedChain

if TYPE_CHECKING:
    from planner.cost._types import Array

__all__ = ["Group", "GroupPricer"]

# GPUs of each node, as (position of the node, count), in the order of the nodes.
Group = tuple[tuple[int, int], ...]

_PORTIONS: Final = 20  # that the DP divides the layers into
_LOADS: Final = (
    (1.0, 2),
    (8.0, 2),
    (32.0, 4),
    (128.0, 4),
)  # decode batch of a stage, and stages that share the KV cache
_POLISHED, _CLOSE = 3, 0.9  # chains of a group whose layers are moved once more, and how near they come to the best
_OBJECTIVES: Final[tuple[Literal["sum", "bottleneck"], ...]] = ("bottleneck", "sum")


class GroupPricer:
    """Best pipelines of groups, remembered.

    Parameters
    ----------
    pricer
        Prices chains.
    """

    def __init__(self, pricer: ChainPricer) -> None:
        self.pricer = pricer
        cluster, model = pricer.cluster, pricer.model
        named = {name for pair in cluster.spec.links.pairs for name in pair.between}
        self._alike = not named & set(cluster.nodes)  # no link singles out a node
        self._members: list[list[int]] = [[] for _ in cluster.classes]
        for node, c in enumerate(pricer.class_of_node):
            self._members[c].append(node)
        self._zone = [cluster.classes[c].zone for c in pricer.class_of_node]
        cuts = np.linspace(0, model.num_layers, min(model.num_layers, _PORTIONS) + 1)
        self._cuts = [int(x) for x in np.rint(cuts)]
        self._loads = [pricer.load(batch, stages) for batch, stages in _LOADS]
        self._times: dict[tuple[int, int], Array] = {}
        self._groups: dict[Group, PricedChain] = {}
        self._chains: dict[Chain, PricedChain] = {}
        self._final: dict[Chain, PricedChain] = {}

    @property
    def groups_priced(self) -> int:
        """How many different groups were asked for."""
        return len(self._groups)

    @property
    def chains_priced(self) -> int:
        """How many different chains these led to."""
        return len(self._chains)

    def best(self, groups: Sequence[Group]) -> list[PricedChain]:
        """Best chain of each group, on the group's own nodes."""
        alike = [self._representative(group) for group in groups]
        new = [key for key in dict.fromkeys(key for key, _ in alike) if key not in self._groups]
        proposed = {key: self._proposals(key) for key in new}
        chains = dict.fromkeys(chain for found in proposed.values() for chain in found)
        unknown = [chain for chain in chains if chain not in self._chains]
        self._chains.update(zip(unknown, self.pricer.best(unknown), strict=True))
        for key, found in proposed.items():
            priced = sorted((self._chains[chain] for chain in found), key=lambda one: -one.rate)
            best = [self._polished(one) for one in priced[:_POLISHED] if one.rate > _CLOSE * priced[0].rate]
            self._groups[key] = max(best, key=lambda one: one.rate, default=PricedChain((), (), 0.0))
        answers = []
        for key, own in alike:
            one = self._groups[key]
            chain = tuple(ChainStage(own[stage.node], stage.tp) for stage in one.chain)
            answers.append(PricedChain(chain, one.layers, one.rate))
        return answers

    def _polished(self, one: PricedChain) -> PricedChain:
        if one.chain not in self._final:
            self._final[one.chain] = self.pricer.polished(one)
        return self._final[one.chain]

    def _representative(self, group: Group) -> tuple[Group, dict[int, int]]:
        """Group of the same counts on the first nodes of each class, and which node of this one each stands for."""
        if not self._alike:
            return group, {node: node for node, _ in group}
        by_class: dict[int, list[tuple[int, int]]] = {}
        for node, count in group:
            by_class.setdefault(self.pricer.class_of_node[node], []).append((-count, node))
        key: list[tuple[int, int]] = []
        own: dict[int, int] = {}
        for c in sorted(by_class):
            for first, (count, node) in zip(self._members[c], sorted(by_class[c]), strict=False):
                key.append((first, -count))
                own[first] = node
        return tuple(key), own

    def _proposals(self, group: Group) -> list[Chain]:
        """Chains worth pricing."""
        pricer = self.pricer
        nodes = sorted(group, key=lambda entry: (self._zone[entry[0]], entry[0]))
        devices: dict[str, list[tuple[int, int]]] = {}
        for node, count in nodes:
            name = pricer.cluster.classes[pricer.class_of_node[node]].device.name
            devices.setdefault(name, []).append((node, count))
        parts = [nodes] if pricer.engine.mixed_gpu_types else list(devices.values())
        found: dict[Chain, None] = {}
        for part in parts:
            degrees = sorted({tp for node, n in part for tp in self._degrees(node, n)})
            for allowed in [[tp] for tp in degrees] if pricer.uniform else [degrees]:
                for chain in self._by_dynamic_program(part, allowed):
                    found[chain] = found[chain[::-1]] = None
        return list(found)

    def _degrees(self, node: int, count: int) -> list[int]:
        return [tp for tp in self.pricer.degrees(self.pricer.class_of_node[node]) if tp <= count]

    def _by_dynamic_program(self, nodes: Sequence[tuple[int, int]], degrees: Sequence[int]) -> list[Chain]:
        pricer = self.pricer
        kinds: dict[tuple[int, int], int] = {}
        blocks, used = [], []
        for node, count in nodes:
            c = pricer.class_of_node[node]
            mine = [tp for tp in self._degrees(node, count) if tp in degrees]
            if mine:
                blocks.append(Block(count, tuple((tp, kinds.setdefault((c, tp), len(kinds))) for tp in mine)))
                used.append(node)
        if not blocks:
            return []
        time_PKNN = np.stack([self._kind_times(c, tp) for c, tp in kinds], axis=1)
        hop_PUU = np.array([[[pricer.hop(a, b, at) for b in used] for a in used] for at, _ in self._loads])
        tp_of = {index: tp for (_, tp), index in kinds.items()}
        found: dict[Chain, None] = {}
        for objective in _OBJECTIVES:
            for stages in best_pipelines(time_PKNN, hop_PUU, blocks, objective):
                if stages:
                    found[tuple(ChainStage(used[stage.block], tp_of[stage.kind]) for stage in stages)] = None
        # all of the group, whether or not the loads above call for it
        if len(degrees) == 1:
            tp = degrees[0]
            counts = dict(nodes)
            whole = tuple(ChainStage(node, tp) for node in used for _ in range(counts[node] // tp))
            found[whole] = None
        return list(found)

    def _kind_times(self, node_class: int, tp: int) -> Array:
        """Time of a stage that holds the layers between two cuts, under each load; infinite where they do not fit."""
        key = node_class, tp
        if key not in self._times:
            planes = [self.pricer.interval_times(*key, at, sequences, self._cuts) for at, sequences in self._loads]
            self._times[key] = np.stack(planes)
        return self._times[key]
