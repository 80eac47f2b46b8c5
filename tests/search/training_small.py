"""Training problems small enough to try every plan, and the plain loops that do."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

import numpy as np

from planner.cluster import Cluster, load_cluster
from planner.cost.memory import tensor_parallel_fault
from planner.cost.training import predict_training
from planner.cost.training_replica import PlacedTrainingStage
from planner.engine import EngineProfile, load_engine
from planner.model import ModelSpec, load_model
from planner.plan import Schedule, TrainingJob
from planner.search.problem import TrainingProblem
from tests.search.small import cluster_text, tiny_model

__all__ = [
    "best_of_all",
    "cluster_with_links",
    "config_model",
    "every_plan",
    "plainly",
    "random_problem",
    "training_problem",
]


def config_model(**config: Any) -> ModelSpec:
    """A model from the fields of a config.json."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return load_model(path)


def mixed_layers(layers: int, hidden: int, dense: int, experts: int) -> ModelSpec:
    """Experts in all layers but the first `dense`: two kinds of layer."""
    return config_model(
        model_type="deepseek_v2",
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        moe_intermediate_size=hidden // 2,
        n_routed_experts=experts,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=dense,
        num_attention_heads=16,
        num_key_value_heads=16,
        q_lora_rank=None,
        kv_lora_rank=256,
        qk_rope_head_dim=64,
        qk_nope_head_dim=64,
        v_head_dim=64,
        vocab_size=16000,
        max_position_embeddings=4096,
        torch_dtype="bfloat16",
    )


def cluster_with_links(
    classes: list[tuple[str, int, int]], pairs: list[tuple[str, str, str]], *, bandwidth: str = "100 Gb/s"
) -> Cluster:
    """A cluster in which some pairs of places have their own bandwidth."""
    text = cluster_text(classes, bandwidth=bandwidth)
    if pairs:
        text += "links:\n  pairs:\n"
        text += "".join(f"    - {{between: [{a}, {b}], bandwidth: {speed}, latency: 10 us}}\n" for a, b, speed in pairs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.yaml"
        path.write_text(text, encoding="utf-8")
        return load_cluster(path)


def training_problem(
    model: ModelSpec,
    cluster: Cluster,
    *,
    engine: str | EngineProfile = "generic",
    batch: int = 8,
    length: int = 1024,
    zero: int = 1,
    max_stages: int | None = None,
) -> TrainingProblem:
    return TrainingProblem(
        model=model,
        cluster=cluster,
        engine=load_engine(engine) if isinstance(engine, str) else engine,
        job=TrainingJob(global_batch=batch, sequence_length=length, zero_stage=zero),  # type: ignore[arg-type]
        max_stages=max_stages,
    )


def random_problem(seed: int, *, mixed: bool = False) -> TrainingProblem:
    """Two GPU types with tight memory, slow links, few layers."""
    rng = np.random.default_rng(seed)
    shapes = [(1, 1), (1, 2), (2, 1), (1, 3), (2, 2)][: 5 if rng.random() < 0.2 else 3]
    types = rng.permutation(["t4", "v100_sxm_16", "a100_sxm_40", "l4"])[:2]
    classes = [(str(gpu), *shapes[rng.integers(len(shapes))]) for gpu in types]
    bandwidth = str(rng.choice(["100 Gb/s", "10 Gb/s", "1 Gb/s"]))
    layers = int(rng.integers(3, 6))
    if mixed:
        model = mixed_layers(layers, int(rng.choice([512, 1024])), 1, int(rng.choice([4, 16])))
    elif rng.random() < 0.25:  # tied embeddings
        model = config_model(
            model_type="gpt2", n_embd=2048, n_layer=layers, n_head=16, n_positions=2048, vocab_size=50257
        )
    else:
        hidden = int(rng.choice([1024, 2048, 4096, 5120]))
        model = tiny_model(layers=layers, hidden=hidden, heads=16, kv_heads=int(rng.choice([4, 16])))
    pairs = [("g0", "g1", str(rng.choice(["5 Gb/s", "50 Gb/s"])))] if rng.random() < 0.5 else []
    return training_problem(
        model,
        cluster_with_links(classes, pairs, bandwidth=bandwidth),
        engine=str(rng.choice(["generic", "megatron"])),
        batch=int(rng.choice([2, 4, 6])),
        length=int(rng.choice([2048, 8192, 32768])),
        zero=int(rng.integers(0, 2)),
    )


def plainly(problem: TrainingProblem, **update: Any) -> TrainingProblem:
    """The same under an engine without interleaving, context and expert parallelism."""
    plain = {"interleaving": False, "context_parallel": False, "expert_parallel": False, **update}
    return replace(problem, engine=problem.engine.model_copy(update=plain))


def every_plan(problem: TrainingProblem) -> Iterator[tuple[list[PlacedTrainingStage], Schedule]]:
    """Every plan of the search's family, legal or not, in plain loops."""
    cluster, model, batch = problem.cluster, problem.model, problem.job.global_batch
    uniform = problem.engine.tensor_parallel == "uniform"
    groups_of = {}
    for index, members in enumerate(cluster.classes):
        for tp in (1, 2, 4, 8):
            if members.gpus_per_node % tp == 0 and tensor_parallel_fault(model, tp) is None:
                groups_of[index, tp] = [
                    tuple(f"{node}/{i + k}" for k in range(tp))
                    for node in members.nodes
                    for i in range(0, members.gpus_per_node, tp)
                ]
    for size in range(1, len(cluster.classes) + 1):
        for order in permutations(range(len(cluster.classes)), size):
            for tps in product((1, 2, 4, 8), repeat=size):
                if (uniform and len(set(tps)) > 1) or any(
                    (c, t) not in groups_of for c, t in zip(order, tps, strict=True)
                ):
                    continue
                for dp in (d for d in range(1, cluster.num_gpus + 1) if batch % d == 0):
                    room = [len(groups_of[c, t]) // dp for c, t in zip(order, tps, strict=True)]
                    for counts in product(*(range(1, most + 1) for most in room)):
                        if sum(counts) <= min(model.num_layers, problem.max_stages or 16):
                            yield from _cut(problem, order, tps, dp, counts, groups_of)


def _cut(
    problem: TrainingProblem,
    order: tuple[int, ...],
    tps: tuple[int, ...],
    dp: int,
    counts: tuple[int, ...],
    groups_of: dict[tuple[int, int], list[tuple[str, ...]]],
) -> Iterator[tuple[list[PlacedTrainingStage], Schedule]]:
    layers, batch = problem.model.num_layers, problem.job.global_batch
    where = [
        (tp, groups_of[c, tp][s * dp : (s + 1) * dp])
        for c, tp, count in zip(order, tps, counts, strict=True)
        for s in range(count)
    ]
    for inner in combinations(range(1, layers), len(where) - 1):
        bounds = (0, *inner, layers)
        for micro in (b for b in range(1, batch // dp + 1) if batch % (dp * b) == 0):
            stages = [
                PlacedTrainingStage(
                    devices=tuple(gpu for group in groups for gpu in group),
                    layers=(bounds[s], bounds[s + 1]),
                    tp=tp,
                    dp=dp,
                    microbatch_shares=(micro,) * dp,
                )
                for s, (tp, groups) in enumerate(where)
            ]
            for recompute in ("none", "selective", "full"):
                for parallel in (False, True) if max(tps) > 1 else (False,):
                    yield (
                        stages,
                        Schedule(
                            microbatch_size=micro,
                            microbatches=batch // (dp * micro),
                            recompute=recompute,  # type: ignore[arg-type]
                            sequence_parallel=parallel,
                        ),
                    )


def best_of_all(problem: TrainingProblem, *, parallel_where_possible: bool = False) -> tuple[float, int]:
    """Least iteration time over every plan that fits, and how many plans there are.

    With `parallel_where_possible`, sequence parallelism is left out where some degree does not divide the sequences.
    """
    best, tried = float("inf"), 0
    for stages, schedule in every_plan(problem):
        tried += 1
        divided = all(problem.job.sequence_length % stage.tp == 0 for stage in stages)
        if parallel_where_possible and schedule.sequence_parallel and not divided:
            continue
        price = predict_training(problem.model, problem.cluster, problem.engine, problem.job, stages, schedule)
        fits = all(
            memory.value <= limit * (1 + 1e-12) for memory, limit in zip(price.memory_S, price.limit_S, strict=True)
        )
        if fits:
            best = min(best, price.iteration_time)
    return best, tried
