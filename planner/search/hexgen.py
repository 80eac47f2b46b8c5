"""HexGen's method: a genetic search over partitions of the GPUs into pipeline groups.

An individual divides all GPUs into groups, each of which is one replica or idle. It is worth the sum of what the best
pipeline of each group serves within the SLO (`planner.search.pipeline_groups`). Mutations merge two groups, split one,
and move or exchange GPUs between two; the best of parents and children survive, so that the best so far never falls.
Nothing is proven: it is here to be measured against.

Unlike the released code, the inner dynamic program is run and links are read, groups may span regions, survivors are
elitist, and the fitness is the goodput that the cost model predicts.

References
----------
Y. Jiang et al., "HexGen: Generative inference of large language model over heterogeneous environment", ICML 2024.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from planner.plan import ServingPlan
from planner.search.chain_plan import plan_of_chains, worth
from planner.search.chains import ChainPricer
from planner.search.pipeline_groups import Group, GroupPricer
from planner.search.problem import Budget, SearchResult, ServingProblem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EvolvedResult", "search_hexgen"]

GENERATIONS: Final = 300
POPULATION: Final = 40
OFFSPRING: Final = 16
_TOURNAMENT: Final = 3
_MOVES: Final = (1, 2, 4, 8)  # GPUs moved at a time: tensor-parallel groups as often as single ones
_AGAIN: Final = 0.35  # chance that a child is mutated once more

Individual = tuple[Group, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolvedResult(SearchResult[ServingPlan]):
    """A plan and how the search came to it.

    Parameters
    ----------
    history
        Requests/s that the best individual serves within the SLO, as far as they are asked for, after each generation;
        the first before any. It never falls.
    """

    history: tuple[float, ...]


def search_hexgen(
    problem: ServingProblem,
    budget: Budget,
    *,
    generations: int = GENERATIONS,
    population: int = POPULATION,
    offspring: int = OFFSPRING,
) -> EvolvedResult:
    """Search genetically; see the module.

    Parameters
    ----------
    problem, budget
        As for every method; the seed counts.
    generations, population, offspring
        How long, among how many, with how many children each time.

    Raises
    ------
    InfeasibleError
        If no group that it came upon can serve.
    """
    pricer = ChainPricer(problem)
    groups = GroupPricer(pricer)
    random = Random(budget.seed)
    mutate = _Mutations(random, pricer)
    known: dict[Individual, tuple[float, float]] = {}

    def judge(individuals: Sequence[Individual]) -> None:
        new = [one for one in dict.fromkeys(individuals) if one not in known]
        asked = list(dict.fromkeys(group for one in new for group in one))
        value = dict(zip(asked, groups.best(asked), strict=True))
        for one in new:
            known[one] = worth(pricer, [value[group] for group in one])

    def fittest(individuals: Sequence[Individual]) -> list[Individual]:
        return sorted(dict.fromkeys(individuals), key=lambda one: known[one], reverse=True)[:population]

    alive = mutate.beginning(population)
    judge(alive)
    alive = fittest(alive)
    history = [known[alive[0]][0]]
    for generation in range(generations):
        if budget.remaining() <= 0:
            break
        parents = [min(random.randrange(len(alive)) for _ in range(_TOURNAMENT)) for _ in range(offspring)]
        children = [mutate(alive[at]) for at in parents]  # alive is sorted: the smallest index is the fittest
        judge(children)
        alive = fittest([*alive, *children])
        history.append(known[alive[0]][0])
        budget.report("generations", (generation + 1) / generations)
    chosen = groups.best(alive[0])
    told = f"genetic search over partitions into pipeline groups, {len(history) - 1} generations, seed {budget.seed}"
    plan = plan_of_chains(pricer, chosen, told)
    return EvolvedResult(
        plan=plan,
        seconds=time.monotonic() - budget.started,
        counts={
            "generations": len(history) - 1,
            "partitions": len(known),
            "groups": groups.groups_priced,
            "chains": groups.chains_priced,
        },
        history=tuple(history),
    )


class _Mutations:
    """Partitions to begin with, and changed ones."""

    def __init__(self, random: Random, pricer: ChainPricer) -> None:
        self._random = random
        classes = pricer.cluster.classes
        self._sizes = [classes[c].gpus_per_node for c in pricer.class_of_node]
        self._zones = [classes[c].zone for c in pricer.class_of_node]
        self._classes = pricer.class_of_node

    def beginning(self, size: int) -> list[Individual]:
        """Nodes, parts of nodes, classes and zones as groups; and changes of these."""
        nodes = range(len(self._sizes))
        found = [_ordered([self._cut(node, part) for node in nodes for part in self._parts(node, n)]) for n in _MOVES]
        for key in (self._classes, self._zones):
            members: dict[object, list[int]] = {}
            for node in nodes:
                members.setdefault(key[node], []).append(node)
            found.append(_ordered([tuple((node, self._sizes[node]) for node in each) for each in members.values()]))
        begun = list(dict.fromkeys(found))
        return begun + [self(begun[i % len(begun)]) for i in range(max(0, size - len(begun)))]

    def _parts(self, node: int, size: int) -> list[int]:
        whole, rest = divmod(self._sizes[node], size)
        return [size] * whole + [rest] * (rest > 0)

    @staticmethod
    def _cut(node: int, count: int) -> Group:
        return ((node, count),)

    def __call__(self, individual: Individual) -> Individual:
        """Change an individual once, or a few times."""
        changes: tuple[Callable[[list[dict[int, int]]], None], ...] = (self._merge, self._split, self._swap)
        groups = [dict(group) for group in individual]
        while True:
            self._random.choice(changes)(groups)
            groups = [group for group in groups if group]
            if self._random.random() >= _AGAIN:
                return _ordered([tuple(sorted(group.items())) for group in groups])

    def _two(self, groups: list[dict[int, int]]) -> tuple[int, int]:
        """Two groups; mostly such that stand in one zone."""
        a = self._random.randrange(len(groups))
        others = [i for i in range(len(groups)) if i != a]
        if self._random.random() < 0.8:
            here = {self._zones[node] for node in groups[a]}
            near = [i for i in others if any(self._zones[node] in here for node in groups[i])]
            others = near or others
        return a, self._random.choice(others)

    def _merge(self, groups: list[dict[int, int]]) -> None:
        if len(groups) < 2:
            return
        a, b = self._two(groups)
        for node, count in groups[b].items():
            groups[a][node] = groups[a].get(node, 0) + count
        del groups[b]

    def _split(self, groups: list[dict[int, int]]) -> None:
        able = [i for i, group in enumerate(groups) if sum(group.values()) > 1]
        if not able:
            return
        group = groups[self._random.choice(able)]
        if len(group) > 1 and self._random.random() < 0.5:  # some nodes apart from the others
            nodes = sorted(group)
            apart = self._random.sample(nodes, self._random.randrange(1, len(nodes)))
            groups.append({node: group.pop(node) for node in sorted(apart)})
            return
        half = {node: count // 2 for node, count in group.items() if count > 1}
        if half and self._random.random() < 0.5:  # each node in half
            for node, count in half.items():
                group[node] -= count
            groups.append(half)
            return
        node = self._random.choice(sorted(group))
        self._move(group, groups, node, self._amount(group[node]), None)

    def _swap(self, groups: list[dict[int, int]]) -> None:
        """Move GPUs of a node from one group to another; as often as not, as many others come back."""
        if len(groups) < 2:
            return
        a, b = self._two(groups)
        here, there = groups[a], groups[b]
        node = self._random.choice(sorted(here))
        count = self._amount(here[node])
        back = [n for n in sorted(there) if n != node and there[n] >= count]
        self._move(here, groups, node, count, there)
        if back and self._random.random() < 0.5:
            self._move(there, groups, self._random.choice(back), count, here)

    def _amount(self, most: int) -> int:
        return self._random.choice([move for move in _MOVES if move <= most])

    @staticmethod
    def _move(
        group: dict[int, int], groups: list[dict[int, int]], node: int, count: int, to: dict[int, int] | None
    ) -> None:
        group[node] -= count
        if not group[node]:
            del group[node]
        if to is None:
            groups.append({node: count})
        else:
            to[node] = to.get(node, 0) + count


def _ordered(groups: Sequence[Group]) -> Individual:
    """Same groups, same individual."""
    return tuple(sorted(groups))
