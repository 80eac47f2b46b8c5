"""Exact training search at our own costs: time and proven gap by GPUs, types and layers, with what was promised.

A Llama of 8 billion parameters with 34 layers unless said, sequences of 4,096 tokens, Megatron-Core. Exits 1 where a
budget is missed. ``--plot FILE`` draws how the time grows.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from planner.cluster import Cluster, load_cluster
from planner.engine import load_engine
from planner.model import ModelSpec, load_model
from planner.plan import TrainingJob
from planner.search.exact import search_exact
from planner.search.problem import Budget, TrainingProblem

# GPU type, GPUs a node, bandwidth of a node, and share of the cluster by number of types.
TYPES = (
    ("h100_sxm", 8, "400 Gb/s"),
    ("a100_sxm_80", 8, "200 Gb/s"),
    ("l40s", 8, "100 Gb/s"),
    ("v100_sxm_32", 8, "100 Gb/s"),
)
SLACK = 1.5  # of the budgets, for other machines
MOST_BYTES = 2e9


@dataclass(frozen=True, slots=True)
class Case:
    """What is searched: GPUs, types, layers, batch; and what was promised: seconds and gap."""

    gpus: int
    types: int
    layers: int
    batch: int
    seconds: float
    gap: float
    engine: str = "megatron"


CASES = (
    Case(64, 2, 34, 512, 3.0, 0.005),
    Case(64, 3, 34, 512, 10.0, 0.005),
    Case(64, 4, 34, 512, 20.0, 0.005),
    Case(1024, 2, 34, 4096, 60.0, 0.005),
    Case(64, 2, 98, 512, 60.0, 0.03),
    Case(10240, 2, 34, 16384, 60.0, 1.0),
)


def cluster_of(gpus: int, types: int) -> Cluster:
    """So many GPUs, shared evenly by the first few types."""
    lines = ["name: made", "source: made for a benchmark", "kind: example", 'date: "2026-11"', "nodes:"]
    nodes, left = gpus // 8, types
    for gpu, size, nic in TYPES[:types]:
        count = max(1, nodes // left)
        nodes, left = nodes - count, left - 1
        lines += [
            f"  - name: {gpu}",
            f"    count: {count}",
            f"    gpu: {gpu}",
            f"    gpus_per_node: {size}",
            f"    nic: {{bandwidth: {nic}, latency: 10 us}}",
        ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.yaml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return load_cluster(path)


def model_of(layers: int) -> ModelSpec:
    """Llama-3.1-8B with another number of layers."""
    config = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return load_model(path)


@dataclass(frozen=True, slots=True)
class Ran:
    """Seconds in all and of CPU, until a plan within 2 % of the last one, the gap, the plan's seconds, and counts."""

    wall: float
    cpu: float
    good: float
    good_cpu: float
    gap: float
    value: float
    counts: dict[str, int]


def run(case: Case) -> Ran:
    """Search once."""
    problem = TrainingProblem(
        model=model_of(case.layers),
        cluster=cluster_of(case.gpus, case.types),
        engine=load_engine(case.engine),
        job=TrainingJob(global_batch=case.batch, sequence_length=4096),
    )
    found: list[tuple[float, float, float]] = []
    wall, cpu = time.monotonic(), time.process_time()

    def better(seconds: float) -> None:
        found.append((time.monotonic() - wall, time.process_time() - cpu, seconds))

    result = search_exact(problem, Budget(time_limit=case.seconds), on_better=better)
    took, busy = time.monotonic() - wall, time.process_time() - cpu
    certificate = result.plan.certificate
    good = next(one for one in found if one[2] <= certificate.value * 1.02)
    return Ran(took, busy, good[0], good[1], certificate.gap, certificate.value, dict(result.counts))


GROWTH = {
    "GPUs": [Case(n, 2, 34, max(512, min(4 * n, 16384)), 60.0, 1.0) for n in (64, 256, 1024, 4096, 10240)],
    "GPU types (64 GPUs)": [Case(64, n, 34, 512, 60.0, 1.0) for n in (1, 2, 3, 4)],
    "layers (64 GPUs)": [Case(64, 2, n, 512, 60.0, 1.0) for n in (18, 34, 66, 98)],
}


def plot(path: Path, engine: str) -> None:
    """Draw how the time grows with GPUs, types and layers, one at a time."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    for axis, (what, cases) in zip(axes, GROWTH.items(), strict=True):
        at = [getattr(case, _varied(cases)) for case in cases]
        runs = [run(replace(case, engine=engine)) for case in cases]
        axis.plot(at, [one.cpu for one in runs], "o-", label="closed, or within 0.1 %")
        axis.plot(at, [one.good_cpu for one in runs], "s--", label="plan within 2 % of the last")
        axis.set_xlabel(what)
        if what == "GPUs":
            axis.set_xscale("log")
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
        for case, one in zip(cases, runs, strict=True):
            print(
                f"{what:20s} {case.gpus:6d} {case.types:2d} {case.layers:3d} {one.cpu:7.2f} s {one.gap:8.3%}",
                flush=True,
            )
    axes[0].set_ylabel("seconds of CPU time")
    axes[0].legend()
    figure.savefig(path, dpi=130)


def _varied(cases: list[Case]) -> str:
    return next(name for name in ("gpus", "types", "layers") if len({getattr(case, name) for case in cases}) > 1)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--engine", default="megatron")
    options = parser.parse_args()
    run(replace(CASES[0], gpus=16, seconds=60.0))  # imports, and tables that are loaded once
    if options.plot is not None:
        plot(options.plot, options.engine)
        return 0
    missed = False
    print("  GPUs types layers   budget  wall s  CPU s  good s   iteration s      gap  graphs   cells      labels")
    for case in CASES:
        asked = replace(case, engine=options.engine)
        runs = [run(asked)]
        if runs[0].wall < 20:
            runs += [run(asked), run(asked)]
        took, good, cpu = (statistics.median(getattr(one, name) for one in runs) for name in ("wall", "good", "cpu"))
        gap, value, counts = runs[0].gap, runs[0].value, runs[0].counts
        within = took <= case.seconds * SLACK and gap <= case.gap and good <= case.seconds / 4 * SLACK
        missed |= not within
        print(
            f"{case.gpus:6,d} {case.types:5d} {case.layers:6d} {case.seconds:6.0f} s {took:7.2f} {cpu:6.2f} {good:7.2f}"
            f" {value:13.5f} {gap:8.3%} {counts['graphs']:7d} {counts['cells']:7d} {counts['labels']:11,d}"
            f"{'' if within else '   over budget'}",
            flush=True,
        )
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"memory {most / 1e9:.2f} GB")
    return 1 if missed or most > MOST_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
