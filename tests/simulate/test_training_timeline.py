"""Timelines of whole training iterations: they add up, and agree with the closed form as far as that holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from planner.cost.training import predict_training
from planner.plan import Schedule
from planner.search.exact import search_exact
from planner.search.problem import Budget
from planner.simulate import TrainingTimeline, plan_timeline, timeline_of
from tests.search.small import small_cluster, tiny_model
from tests.search.training_small import (
    PlacedTrainingStage,
    TrainingProblem,
    config_model,
    plainly,
    random_problem,
    training_problem,
)


def timeline(problem: TrainingProblem, cuts: list[int], microbatches: int, dp: int = 1) -> TrainingTimeline:
    """One GPU, or `dp` of them, for each stage between two cuts."""
    gpus = problem.cluster.gpus
    stages = [
        PlacedTrainingStage(
            devices=tuple(gpus[s * dp : (s + 1) * dp]), layers=(a, b), tp=1, dp=dp, microbatch_shares=(1,) * dp
        )
        for s, (a, b) in enumerate(itertools.pairwise(cuts))
    ]
    schedule = Schedule(microbatch_size=1, microbatches=microbatches, recompute="none", sequence_parallel=False)
    found = predict_training(problem.model, problem.cluster, problem.engine, problem.job, stages, schedule)
    return timeline_of(found, schedule, [len(stage.devices) for stage in stages])


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 8), (4, 16), (8, 32)])
def test_closed_form_holds_for_balanced_plans(stages: int, microbatches: int) -> None:
    """Equal stages of a model with next to no embedding, fast links: within 1 %."""
    model = config_model(
        model_type="llama",
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=4 * stages,
        num_attention_heads=32,
        vocab_size=128,
        max_position_embeddings=4096,
        torch_dtype="bfloat16",
    )
    cluster = small_cluster([("h100_sxm", 8, 1)])
    problem = training_problem(model, cluster, batch=microbatches, length=4096)
    found = timeline(problem, list(range(0, 4 * stages + 1, 4)), microbatches)
    assert found.seconds == pytest.approx(found.closed_form, rel=0.01)
    bubble = (stages - 1) / (microbatches + stages - 1)
    assert found.bubble_fraction == pytest.approx(bubble, abs=0.02)


def test_uneven_stages_are_explained() -> None:
    """The closed form says more, by what the parts of the difference add up to."""
    problem = training_problem(tiny_model(layers=12, hidden=4096), small_cluster([("a100_sxm_80", 8, 1)]), batch=8)
    found = timeline(problem, [0, 2, 8, 12], 8, dp=2)
    assert found.seconds < found.closed_form
    assert found.apart.seconds == pytest.approx(found.closed_form - found.seconds, rel=1e-9)
    assert found.apart.uneven > 0 and found.apart.updates >= 0


@pytest.mark.parametrize("seed", range(6))
def test_timelines_of_plans(seed: int) -> None:
    problem = plainly(random_problem(seed))
    plan = search_exact(problem, Budget()).plan
    found = plan_timeline(plan, problem.model, problem.cluster, problem.engine)
    assert found.closed_form == pytest.approx(plan.predicted["iteration_time"].value, rel=1e-12)
    assert found.apart.seconds == pytest.approx(found.closed_form - found.seconds, rel=1e-9, abs=1e-12)
    slowest = plan.schedule.microbatches * max(found.passes.busy_S) / plan.schedule.microbatches
    assert found.seconds >= slowest
    for s in range(found.stages):
        mine = [*(e for e in found.passes.events if e.stage == s), *(t for t in found.tails if t.stage == s)]
        spans = sorted((one.start, one.end) for one in mine)
        assert all(b[0] >= a[1] - 1e-12 for a, b in itertools.pairwise(spans))
        assert max(end for _, end in spans) <= found.seconds + 1e-12
    passes = {(e.stage, e.kind, e.microbatch): e for e in found.passes.events}
    for hop in found.hops:
        assert hop.start == passes[hop.stage, hop.kind, hop.microbatch].end
        assert hop.end <= passes[hop.to, hop.kind, hop.microbatch].start + 1e-12
    sent = 2 * plan.schedule.microbatches * (found.stages - 1)
    assert len(found.hops) in (0, sent)


def test_forward_is_part_of_the_work() -> None:
    problem = training_problem(tiny_model(layers=6), small_cluster([("a100_sxm_80", 2, 1)]))
    gpus = problem.cluster.gpus
    stages = [
        PlacedTrainingStage(devices=(gpus[s],), layers=(3 * s, 3 * s + 3), tp=1, dp=1, microbatch_shares=(1,))
        for s in range(2)
    ]
    shares = []
    for recompute in ("none", "full"):
        schedule = Schedule(microbatch_size=1, microbatches=8, recompute=recompute, sequence_parallel=False)  # type: ignore[arg-type]
        found = predict_training(problem.model, problem.cluster, problem.engine, problem.job, stages, schedule)
        shares.append(found.forward_S / found.work_S)
    plain_S, recomputed_S = shares
    assert np.all((plain_S > 0.25) & (plain_S < 0.42))
    assert np.all(recomputed_S < plain_S - 0.05)  # recomputation lengthens the backward pass only


def test_interleaved_plans_hop_around() -> None:
    """Twice as many hops as chunks make, the last stage back to the first; closed form and timeline within 1 %."""
    problem = training_problem(tiny_model(layers=8), small_cluster([("a100_sxm_80", 4, 1)]))
    gpus, found = problem.cluster.gpus, []
    for chunks in (1, 2):
        stages = [
            PlacedTrainingStage(devices=(gpus[s],), layers=(2 * s, 2 * s + 2), tp=1, dp=1, microbatch_shares=(1,))
            for s in range(4)
        ]
        schedule = Schedule(
            microbatch_size=1, microbatches=8, recompute="none", sequence_parallel=False, virtual_stages=chunks
        )
        price = predict_training(problem.model, problem.cluster, problem.engine, problem.job, stages, schedule)
        found.append(timeline_of(price, schedule, [1] * 4))
    plain, interleaved = found
    assert len(plain.hops) == 2 * 8 * 3 and len(interleaved.hops) == 2 * 8 * 7
    assert any(hop.stage == 3 and hop.to == 0 for hop in interleaved.hops if hop.kind == "forward")
    assert interleaved.bubble_fraction < plain.bubble_fraction
    assert interleaved.apart.seconds == pytest.approx(interleaved.closed_form - interleaved.seconds, rel=1e-9)
