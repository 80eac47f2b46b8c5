"""Jobs on measured layers that nothing fits: what is named makes them feasible, and a little less does not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from planner.errors import InfeasibleError, TimeLimitError
from planner.search.problem import Budget
from planner.search.training.metis_referee import MetisJob, search_metis_referee
from planner.search.training.sailor import search_sailor
from tests.search.training.test_metis_referee import small_job
from tests.search.training.test_sailor import job as sailor_job


def planned(job: MetisJob) -> bool:
    try:
        search_metis_referee(job, Budget())
    except InfeasibleError:
        return False
    return True


def starved(seed: int) -> MetisJob:
    """Too little memory, or too few stages."""
    job = small_job(seed)
    share = (0.2, 0.45, 0.7)[seed % 3]
    gpus = {name: replace(gpu, memory=gpu.memory * share) for name, gpu in job.gpus.items()}
    return replace(job, gpus=gpus, max_stages=(1, 4)[seed % 2])


def changed(job: MetisJob, hint: str, less: int) -> MetisJob:
    """The job after a change, made smaller by some steps."""
    if nodes := re.fullmatch(r"(\d+) more nodes? of (\d+) (\w+)", hint):
        gpu = job.gpus[nodes[3]]
        count = gpu.count + (int(nodes[1]) - less) * int(nodes[2])
        return replace(job, gpus={**job.gpus, nodes[3]: replace(gpu, count=count)})
    if stages := re.search(r"--max-stages (\d+)", hint):
        return replace(job, max_stages=int(stages[1]) - less)
    assert hint.startswith("GPUs with")
    had = max(gpu.memory for gpu in job.gpus.values())
    size = next(n for n in range(1, 1024) if f"GPUs with {(had + n * 1024e6) / 1e9:,.1f} GB each" == hint)
    memory = had + (size - less) * 1024e6
    return replace(job, gpus={name: replace(gpu, memory=max(memory, gpu.memory)) for name, gpu in job.gpus.items()})


def test_named_changes_help_and_smaller_ones_do_not() -> None:
    told: set[str] = set()
    for seed in range(24):
        job = starved(seed)
        try:
            search_metis_referee(job, Budget())
            continue
        except InfeasibleError as error:
            assert re.search(r"GB", error.what)
            hint = error.hint
        assert hint is not None
        told.add(re.sub(r"[\d,.]+|fast|slow", "n", hint))
        assert planned(changed(job, hint, 0)), hint
        assert not planned(changed(job, hint, 1)), hint
    assert len(told) >= 3, told


def test_sailor_names_a_node_or_a_larger_gpu() -> None:
    small = replace(sailor_job(1, 0, 8, max_stages=2), memory={"a100_sxm_40": 9e9}, gpus_per_node=1)
    with pytest.raises(InfeasibleError, match="26 measured layers of opt-350m") as caught:
        search_sailor(small, Budget())
    hint = str(caught.value.hint)
    found = re.match(r"(\d+) more node|GPUs with ([\d.]+) GB", hint)
    assert found, hint
    if found[1]:
        more, less = ({"a100_sxm_40": 1 + int(found[1]) - n} for n in (0, 1))
        search_sailor(replace(small, gpus=more), Budget())
        with pytest.raises(InfeasibleError):
            search_sailor(replace(small, gpus=less), Budget())


def test_no_time_is_not_infeasible() -> None:
    with pytest.raises(TimeLimitError):
        search_metis_referee(small_job(0), Budget(time_limit=0.0))
