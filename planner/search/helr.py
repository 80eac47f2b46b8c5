"""UELLM's deployer: replica after replica on the chain of devices of least latency and fewest devices.

A device is a tensor-parallel group of one degree; the dynamic program of `planner.partition.device_chain` places the
layers of one replica on the devices that are left, for its latency (HELR, with a weight on devices; LR without; HE for
the fewest devices) or its bottleneck. The same chain is laid down as often as it fits, then the program is asked again.
Every degree and a few loads are tried; what serves most counts, and of equals what takes fewer GPUs.

Devices of one node class are interchangeable in the program, at the slowest link between two of them; the plan is
priced with the links that it gets. UELLM places one replica of a model and knows no tensor parallelism: both are added.

References
----------
Y. He et al., "UELLM: A unified and efficient approach for LLM inference serving", ICSOC 2024, section 4.3.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from planner.engine import default_split
from planner.partition.device_chain import DeviceChain, chain_devices
from planner.search.chain_plan import plan_of_chains, worth
from planner.search.chains import Chain, ChainPricer, ChainStage, PricedChain
from planner.search.problem import Budget, SearchResult, ServingProblem

if TYPE_CHECKING:
    from planner.plan import ServingPlan

__all__ = ["search_he", "search_helr", "search_helr_bottleneck", "search_lr"]

_LOADS: Final = ((1.0, 1), (8.0, 1), (32.0, 2), (96.0, 2))  # decode batch, and stages that share the KV cache
_MOST_DEVICES: Final = 8  # of a chain, where one of so many can serve; else twice as many
_DEVICE_SHARE: Final = 0.1  # of the least latency, that one device more must save


def search_helr(
    problem: ServingProblem,
    budget: Budget,
    *,
    objective: Literal["latency", "bottleneck"] = "latency",
    value_weight: float = 1.0,
    device_share: float = _DEVICE_SHARE,
    name: str = "HELR",
) -> SearchResult[ServingPlan]:
    """Place replica after replica by UELLM's program.

    Parameters
    ----------
    problem, budget
        As for every method.
    objective
        What a chain is measured by.
    value_weight, device_share
        Weights of that, and of a device in units of the least value; see `DeviceChains.pick`.
    name
        For the certificate.

    Raises
    ------
    InfeasibleError
        If no chain that it finds can serve.
    """
    pricer = ChainPricer(problem)
    degrees = sorted({tp for c in range(len(problem.cluster.classes)) for tp in pricer.degrees(c)})
    deployer = _Deployer(pricer, objective, value_weight, device_share)
    best: list[PricedChain] = []
    tries = [(tp, batch, stages) for tp in degrees for batch, stages in _LOADS]
    for done, (tp, batch, stages) in enumerate(tries):
        if budget.remaining() <= 0 and best:
            break
        found = deployer.deploy(tp, batch, stages)
        if worth(pricer, found) > worth(pricer, best):
            best = found
        budget.report("placing layers on devices", (done + 1) / len(tries))
    told = f"{name}: chains of devices by {objective}, one replica after the other"
    plan = plan_of_chains(pricer, best, told)
    counts = {"programs": deployer.programs}
    return SearchResult(plan=plan, seconds=time.monotonic() - budget.started, counts=counts)


def search_he(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Place replicas on the fewest devices each (UELLM's HE)."""
    return search_helr(problem, budget, value_weight=0.0, device_share=1.0, name="HE")


def search_lr(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Place replicas for their latency alone (UELLM's LR)."""
    return search_helr(problem, budget, device_share=0.0, name="LR")


def search_helr_bottleneck(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Place replicas for their slowest stage, with a weight on devices."""
    return search_helr(problem, budget, objective="bottleneck", name="HELR")


class _Deployer:
    """Lays down chains for one degree and one load after the other."""

    def __init__(
        self,
        pricer: ChainPricer,
        objective: Literal["latency", "bottleneck"],
        value_weight: float,
        device_share: float,
    ) -> None:
        self._pricer, self._objective = pricer, objective
        self._value_weight, self._device_share = value_weight, device_share
        self._members = [
            [node for node, at in enumerate(pricer.class_of_node) if at == c]
            for c in range(len(pricer.cluster.classes))
        ]
        self.programs = 0

    def deploy(self, tp: int, batch: float, stages: int) -> list[PricedChain]:
        """Replicas until nothing that is left can serve; none of the last kind where even the first cannot."""
        pricer = self._pricer
        classes = pricer.cluster.classes
        free = {node: classes[c].gpus_per_node for node, c in enumerate(pricer.class_of_node)}
        able = [c for c in range(len(classes)) if tp in pricer.degrees(c)]
        devices = list(dict.fromkeys(classes[c].device.name for c in able))
        pools = (
            [able]
            if pricer.engine.mixed_gpu_types
            else [[c for c in able if classes[c].device.name == name] for name in devices]
        )
        laid: list[PricedChain] = []
        for pool in pools:
            while (chain := self._best_chain(pool, free, tp, batch, stages)) is not None:
                before = len(laid)
                while (placed := self._placed(pool, chain, free, tp)) is not None:
                    layers = chain.layers
                    if not pricer.engine.uneven_layers:
                        layers = default_split(pricer.engine, pricer.model.num_layers, len(layers))
                    rate = float(pricer.goodputs([(placed, layers)])[0])
                    if rate <= 0:
                        break
                    for stage in placed:
                        free[stage.node] -= tp
                    laid.append(PricedChain(placed, layers, rate))
                if len(laid) == before:
                    break
        return laid

    def _best_chain(
        self, pool: list[int], free: dict[int, int], tp: int, batch: float, stages: int
    ) -> DeviceChain | None:
        pricer = self._pricer
        count_D = np.array([sum(free[node] // tp for node in self._members[c]) for c in pool])
        if not count_D.sum():
            return None
        at, sequences = pricer.load(batch, stages)
        cuts = range(pricer.model.num_layers + 1)
        time_DNN = np.stack([pricer.interval_times(c, tp, at, sequences, cuts) for c in pool])
        hop_DD = np.array([[self._hop(a, b, at) for b in pool] for a in pool])
        for most in (_MOST_DEVICES, 2 * _MOST_DEVICES):
            self.programs += 1
            most = min(most, pricer.most_stages)
            try:
                chains = chain_devices(time_DNN, hop_DD, count_D, self._objective, most_devices=most)
            except ValueError:  # too many classes for the longer chains
                return None
            least = chains.pick()
            if least is not None:
                return chains.pick(self._value_weight, self._device_share * least.value)
        return None

    def _hop(self, class_a: int, class_b: int, at: int) -> float:
        """Slowest hop between devices of two classes; inside its node where a class is one node."""
        pairs = [(a, b) for a in self._members[class_a] for b in self._members[class_b] if a != b]
        if not pairs:
            node = self._members[class_a][0]
            return self._pricer.hop(node, node, at)
        return max(self._pricer.hop(a, b, at) for a, b in pairs)

    def _placed(self, pool: list[int], chain: DeviceChain, free: dict[int, int], tp: int) -> Chain | None:
        """Give each device of a chain a node, the same as the one before where it has room; None if none has."""
        left = dict(free)
        stages: list[ChainStage] = []
        for d in chain.classes:
            nodes = [node for node in self._members[pool[d]] if left[node] >= tp]
            if not nodes:
                return None
            here = stages[-1].node if stages else -1
            node = here if here in nodes else max(nodes, key=lambda n: left[n])
            left[node] -= tp
            stages.append(ChainStage(node, tp))
        return tuple(stages)
