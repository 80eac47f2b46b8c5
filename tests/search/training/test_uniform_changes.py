"""A configuration that does not fit is told a change that works; what would have been named before it does not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from planner.errors import InfeasibleError
from planner.search.training.uniform import estimate_uniform
from planner.search.training.uniform_changes import UniformJob, _changes, fits_uniform, helpful_uniform_change
from planner.search.training.uniform_space import Cell, UniformConfiguration, layer_splits, uniform_faults
from tests.search.small import small_cluster, tiny_model
from tests.search.training_small import training_problem


def tight(seed: int) -> UniformJob:
    """One node class, some configuration by hand."""
    rng = np.random.default_rng(seed)
    layers = int(rng.choice([8, 16]))
    model = tiny_model(layers=layers, hidden=int(rng.choice([4096, 8192])), heads=32, kv_heads=8)
    cluster = small_cluster([(str(rng.choice(["a100_sxm_40", "l4", "h100_sxm"])), 8, int(rng.integers(1, 3)))])
    problem = training_problem(model, cluster, engine="megatron", batch=64, length=int(rng.choice([1024, 4096, 16384])))
    tp, pp = int(rng.choice([1, 2, 4])), int(rng.choice([1, 2]))
    cell = Cell(
        tp=tp,
        cp=1,
        dp=cluster.num_gpus // (tp * pp),
        ep=1,
        virtual_stages=1,
        layers=layer_splits(layers, pp, 1, uneven=True)[0],
        sequence_parallel=tp > 1,
    )
    return UniformJob(
        problem,
        0,
        UniformConfiguration(
            cell=cell,
            microbatch=int(rng.choice([1, 2, 4])),
            recompute=str(rng.choice(["none", "full"])),  # type: ignore[arg-type]
            zero_stage=int(rng.integers(0, 2)),  # type: ignore[arg-type]
        ),
    )


def test_named_changes_help_and_those_before_do_not() -> None:
    told: set[str] = set()
    for seed in range(60):
        job = tight(seed)
        legal = not uniform_faults(job.problem, job.problem.cluster.classes[0], job.configuration)
        if not legal or fits_uniform(job):
            continue
        change = helpful_uniform_change(job)
        with pytest.raises(InfeasibleError) as caught:
            estimate_uniform(job.problem, 0, job.configuration)
        assert caught.value.hint == (None if change is None else change.words)
        if change is None:
            continue
        told.add(re.sub(r"\d+", "n", change.words))
        estimate_uniform(change.job.problem, 0, change.job.configuration)  # raises where it does not fit
        for before in _changes(job):
            if before.words == change.words:
                break
            assert not fits_uniform(before.job), before.words
    assert len(told) >= 4, told
