"""Fit the serving constants anew, leaving out one group at a time, and print how wrong that leaves predictions.

``--write`` stores constants and errors in profiles/fits; without it they are compared with what is stored.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np

from planner.engine.fitted import FitFile, LeftOut, load_fit
from planner.profiling.accuracy import load_truth
from planner.profiling.accuracy.muxserve import MuxRows
from planner.profiling.accuracy.table import Row
from planner.profiling.accuracy.trtllm import FIRST, SATURATED, STATIC
from planner.profiling.fit import disaggregated, muxserve, offline, serving
from planner.profiling.fit.store import fit_file, left_out_errors, write_fit
from planner.resources import resource_dir

SILICON = ("serving_silicon_dense", "serving_silicon_moe")
BATCHES = (
    (SATURATED, "trtllm_max_load_throughput", "saturated"),
    (STATIC, "trtllm_static_batch_throughput", "static"),
    (FIRST, "trtllm_first_token_latency", "first"),
)
DATE = "2026-11"


def silicon_rows() -> list[Row]:
    rows = [row for name in SILICON for row in load_truth(name).rows]
    return [replace(row, number=number) for number, row in enumerate(rows, start=1)]


def fit_servers() -> FitFile:
    data = serving.SiliconData.of(silicon_rows())
    folds = serving.cross_validate(data)
    output_B = np.array([one.output for one in data.rows], dtype=float)
    experts_B = np.array([any(kind.experts for kind in one.served.setting.model.kinds) for one in data.rows])
    parts = {"all": np.ones(len(data.rows), dtype=bool), "dense": ~experts_B, "experts": experts_B}

    def errors(ttft_B: np.ndarray, tpot_B: np.ndarray, group_B: np.ndarray, ending: str) -> list[LeftOut]:
        figures = {
            "ttft": (ttft_B, data.ttft_B),
            "tpot": (tpot_B, data.tpot_B),
            "e2e": (ttft_B + output_B * tpot_B, data.ttft_B + output_B * data.tpot_B),
        }
        return [
            left_out_errors(part + ending, figure, predicted_B, measured_B, group_B, among_B)
            for part, among_B in parts.items()
            for figure, (predicted_B, measured_B) in figures.items()
        ]

    found = errors(*serving.left_out(data, folds), data.group_B, "")
    for place, name in enumerate(("GPU type", "engine", "model")):
        found += errors(*serving.whole_left_out(data, place), f", no {name}")
    return fit_file(
        name="serving",
        title="servers under load: their own time, and kernels inside them",
        source="fitted to the measured serving rows of aiconfigurator-core 0.12.0 (Apache-2.0; profiles/truth)",
        date=DATE,
        rows=len(data.rows),
        folds=folds,
        left_out=found,
    )


def fit_batches() -> FitFile:
    data = offline.OfflineData.of([(layout, load_truth(name)) for layout, name, _ in BATCHES])
    folds = offline.cross_validate(data)
    predicted_B = offline.left_out(data, folds)
    args = predicted_B, data.measured_B, data.group_B
    errors = [
        left_out_errors(part, layout.figure, *args, data.table_B == t) for t, (layout, _, part) in enumerate(BATCHES)
    ]
    errors += [
        left_out_errors("all", "throughput", *args, data.table_B != 2),
        left_out_errors("all", "ttft", *args, data.table_B == 2),
    ]
    return fit_file(
        name="offline",
        title="batch runs of TensorRT-LLM 0.9 to 1.0: requests lie ready in the engine's process",
        source="fitted to the performance pages of TensorRT-LLM (Apache-2.0; profiles/truth)",
        date=DATE,
        rows=len(data.measured_B),
        folds=folds,
        left_out=errors,
    )


def fit_separate() -> FitFile:
    data = disaggregated.SeparateWorkers.of(load_truth("serving_silicon_disagg").rows)
    source = "fitted to the disaggregated rows of aiconfigurator-core 0.12.0 (Apache-2.0; profiles/truth)"
    return disaggregated.fit_of(data, source=source, date=DATE)


def fit_iterations() -> FitFile:
    rows, _ = MuxRows.of(load_truth("muxserve_latency").rows)
    assert rows is not None
    return muxserve.fit_of(rows, date=DATE)


def told(one: LeftOut) -> str:
    return f"{100 * one.mean_ape:5.1f} {100 * one.median_ape:5.1f} {100 * one.bias:+6.1f} {100 * one.coverage:6.0f}"


def main() -> int:
    write = "--write" in sys.argv[1:]
    worse = False
    for fit in (fit_servers, fit_batches, fit_separate, fit_iterations):
        start = time.perf_counter()
        # a process of its own: what one fit stores is what the next one reads
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(fit).result()
        took = time.perf_counter() - start
        print(f"\n{found.title}\n{found.rows} rows, {len(found.folds)} groups left out in turn, {took:.0f} s")
        print(f"{'rows':22}{'figure':12}{'n':>5}   mean  median  bias  held   stored mean, median (APE, %)")
        for one in found.left_out:
            line = f"{one.part:22}{one.figure:12}{one.rows:5}  {told(one)}"
            if not write:
                before = load_fit(found.name).error(one.part, one.figure)
                line += f"   {100 * before.mean_ape:5.1f} {100 * before.median_ape:5.1f}"
                worse |= one.mean_ape > before.mean_ape + 0.01
            print(line)
        if write:
            print("wrote", write_fit(found, resource_dir("profiles") / "fits").name)
    if worse:
        print("\nworse than what is stored by more than a point")
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
