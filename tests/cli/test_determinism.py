"""The same command writes the same bytes, whatever the hash seed and the number of workers."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from tests.cli.conftest import run_apart

SERVING = (
    *("serving", "-m", "llama-3.1-8b", "-c", "a100-v100-t4-32", "--isl", "512", "--osl", "128"),
    *("--ttft", "2 s", "--tpot", "100 ms"),
)
TRAINING = ("training", "-m", "opt-350m", "-c", "l40s-l4-16", "--global-batch-size", "32", "--seq-len", "1024")


@pytest.mark.parametrize("command", [SERVING, TRAINING], ids=["serving", "training"])
def test_plans_are_equal_to_the_byte(command: tuple[str, ...], tmp_path: Path) -> None:
    def plan(case: tuple[str, str]) -> tuple[bytes, str]:
        seed, workers = case
        file = tmp_path / f"{seed}-{workers}.json"
        outcome = run_apart(*command, "--workers", workers, "-o", file, PYTHONHASHSEED=seed)
        assert outcome.code == 0, outcome
        return file.read_bytes(), outcome.stderr

    with ThreadPoolExecutor(2) as pool:  # each only waits for a process of its own
        plans = list(pool.map(plan, product("012", "12")))
    assert len({content for content, _ in plans}) == 1
    if command is SERVING:
        choices = [re.search(r"([\d,]+) multisets", shown) for _, shown in plans]
        assert all(found and int(found[1].replace(",", "")) > 100 for found in choices)  # a real choice, every time
