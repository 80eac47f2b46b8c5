"""Bad input: the documented exit code, a message with place, expectation and what to try, and nothing destroyed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

CLUSTER = """\
name: mine
description: two nodes
source: made up for a test
kind: example
date: "2026-11"
nodes:
  - name: a
    count: 2
    gpu: {gpu}
    gpus_per_node: 4
    nic: {{bandwidth: {bandwidth}, latency: 10 us}}
"""
TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,20\n0.5,{bad},20\n"
CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


class Case:
    """One mistake: arguments that replace the good ones, the exit code, and what the message must say."""

    def __init__(self, code: int, *said: str, **changed: str) -> None:
        self.code, self.said, self.changed = code, said, changed


CASES = {
    "model-missing": Case(4, "nowhere/config.json: no such file", "expected: ", "try: ", model="nowhere/config.json"),
    "cluster-missing": Case(4, "nowhere.yaml: no such file", "expected: a cluster", "try: ", cluster="nowhere.yaml"),
    "trace-missing": Case(4, "nowhere.csv: no such file", "expected: a trace", "try: ", trace="nowhere.csv"),
    "model-unknown": Case(4, "unknown model 'llama-3.1-71b'", "expected: one of", "try: ", model="llama-3.1-71b"),
    "yaml-syntax": Case(4, "broken.yaml", "line 7", "not valid YAML", "expected: ", "try: ", cluster="broken.yaml"),
    "gpu-unknown": Case(
        4, "gpu.yaml: nodes.0.gpu: unknown", "'h1000'", "expected: one of", "try: h200 or h100_sxm", cluster="gpu.yaml"
    ),
    "bandwidth-negative": Case(
        4, "nic.yaml: nodes.0.nic.bandwidth", "negative", "expected: a positive bandwidth", "try: ", cluster="nic.yaml"
    ),
    "layers-missing": Case(4, "config.json: num_hidden_layers", "expected: ", "try: ", model="config.json"),
    "trace-bad-row": Case(4, "bad.csv:3: num_prefill_tokens", "'many'", "expected: ", "try: ", trace="bad.csv"),
    "cluster-too-small": Case(
        3, "131.4 GiB of weights", "together offer", "try: ", model="llama-3.1-70b", cluster="1xh100"
    ),
    "slo-too-tight": Case(3, "TPOT of 100.0 us", "try: ", tpot="100 us"),
    "engine-unknown": Case(4, "unknown engine 'vlm'", "try: vllm", engine="vlm"),
    "engine-of-training": Case(3, "megatron", engine="megatron"),
    "method-unknown": Case(4, "unknown search method 'magic'", "expected: one of ", method="magic"),
    "layout-unknown": Case(4, "'strange'", "expected: ", trace="azure-conv-2023", layout="strange"),
    "no-requests-left": Case(4, "within 2 tokens", "expected: ", trace="azure-conv-2023", drop_longer_than="2"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the broken files, to run in."""
    good = CLUSTER.format(gpu="l4", bandwidth="100 Gb/s")
    (tmp_path / "broken.yaml").write_text(good.replace("nodes:", "nodes: ["), encoding="utf-8")
    (tmp_path / "gpu.yaml").write_text(CLUSTER.format(gpu="h1000", bandwidth="100 Gb/s"), encoding="utf-8")
    (tmp_path / "nic.yaml").write_text(CLUSTER.format(gpu="l4", bandwidth="-5 GB/s"), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "bad.csv").write_text(TRACE.format(bad="many"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_mistake_is_explained_and_the_output_survives(name: str, folder: Path, run: Run) -> None:
    case = CASES[name]
    options = {"model": "llama-3.1-8b", "cluster": "1xh100", "tpot": "100 ms"}
    if "trace" not in case.changed:
        options |= {"isl": "1000", "osl": "100"}
    options |= case.changed
    output = folder / "plan.json"
    output.write_bytes(b"precious\n")
    arguments = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
    outcome = run("serving", *arguments, "--output", output)
    assert outcome.code == case.code, outcome
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    for said in case.said:
        assert said in outcome.stderr, (said, outcome)
    assert "Traceback" not in outcome.stderr and "internal error" not in outcome.stderr
    assert output.read_bytes() == b"precious\n"
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]  # no temporary file is left


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("verify", "plan.json"), 4, "plan.json: no such file"),
        (("verify", "config.json"), 4, "expected: a plan as described by"),
        (("verify", "broken.yaml"), 4, "broken.yaml"),
        (("compare", "plan.json", "other.json"), 4, "plan.json: no such file"),
        (("models", "show", "config.json"), 4, "num_hidden_layers"),
        (("devices", "show", "h1000"), 4, "unknown"),
        (("topology", "show", "gpu.yaml"), 4, "nodes.0.gpu"),
        (("engines", "show", "vlm"), 4, "try: vllm"),
        (("traces", "show", "bad.csv"), 4, "bad.csv:3: "),
        (("estimate", "plan", "plan.json"), 4, "no such file"),
    ],
)
def test_other_commands_explain_mistakes_too(
    arguments: tuple[str, ...], code: int, said: str, folder: Path, run: Run
) -> None:
    outcome = run(*arguments)
    assert outcome.code == code
    assert outcome.stderr.startswith("error: ") and said in outcome.stderr, outcome
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no workload: give --trace"),
        (("--isl", "100"), "no workload: give --trace"),
        (("--isl", "100", "--osl", "10", "--trace", "azure-conv-2023"), "not both"),
        (("--isl", "100", "--osl", "10", "--rate", "trace"), "no trace whose rate"),
        (("--isl", "100", "--osl", "10", "--rate", "0"), "positive number of requests"),
        (("--isl", "100", "--osl", "10", "--rate", "often"), "'trace', 'max' or"),
        (("--isl", "100", "--osl", "10", "--drop-longer-than", "50"), "is for traces"),
        (("--isl", "0", "--osl", "10"), "--isl"),
        (("--isl", "100", "--osl", "10", "--ttft", "2 km"), "km"),
        (("--isl", "100", "--osl", "10", "--tpot", "-1"), "more than 0"),
        (("--isl", "100", "--osl", "10", "--percentile", "90"), "--percentile"),
        (("--isl", "100", "--osl", "10", "--weight-dtype", "fp7"), "fp8"),
        (("--isl", "100", "--osl", "10", "--max-stages", "0"), "--max-stages"),
        (("--isl", "100", "--osl", "10", "--workers", "0"), "--workers"),
        (("--islands", "3"), "--isl"),
    ],
)
def test_misuse_is_exit_code_2(arguments: tuple[str, ...], said: str, run: Run) -> None:
    outcome = run("serving", "-m", "llama-3.1-8b", "-c", "1xh100", *arguments)
    assert outcome.code == 2
    assert said in " ".join(outcome.stderr.replace("│", " ").split()), outcome
    assert outcome.stdout == "" and "Traceback" not in outcome.stderr


def test_output_that_cannot_be_written_is_told_before_the_search(folder: Path, run: Run) -> None:
    serving = ("serving", "-m", "llama-3.1-8b", "-c", "nowhere.yaml", "--isl", "9", "--osl", "9")
    outcome = run(*serving, "-o", folder / "no" / "plan.json")
    assert outcome.code == 4
    assert "no such folder" in outcome.stderr and "nowhere.yaml" not in outcome.stderr
    outcome = run(*serving, "-o", folder)
    assert outcome.code == 4
    assert "is a folder" in outcome.stderr


def test_training_on_a_cluster_that_is_too_small(run: Run) -> None:
    training = ("training", "-m", "llama-3.1-70b", "-c", "4xt4", "--global-batch-size", "8", "--seq-len", "2048")
    outcome = run(*training)
    assert outcome.code == 3
    assert "GiB" in outcome.stderr and "try: " in outcome.stderr


def test_time_limit_without_a_plan_is_exit_code_5(run: Run) -> None:
    training = ("training", "-m", "llama-2-7b", "-c", "8xa100", "--global-batch-size", "64", "--seq-len", "2048")
    outcome = run(*training, "--time-limit", "0")
    assert outcome.code == 5
    assert outcome.stderr.startswith("error: ")
