"""Fit the constants of training runs anew, leaving out one group at a time, and print how wrong that leaves them.

``--write`` stores constants and errors in profiles/fits; without it they are compared with what is stored.
``--measured`` leaves out what takes minutes: the runs that are priced without measured layers.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from planner.engine.fitted import FitFile, load_fit
from planner.profiling.accuracy.megatron import FIT
from planner.profiling.accuracy.sailor import FIT as MEASURED
from planner.profiling.fit import training, training_measured
from planner.profiling.fit.store import fit_file, left_out_errors, write_fit
from planner.resources import resource_dir

DATE = "2026-11"


def fit_runs() -> FitFile:
    data = training.TrainingData.of()
    folds = training.cross_validate(data)
    args = training.left_out(data, folds), data.measured_N, data.group_N
    parts = {"all": np.ones(len(data.rows), dtype=bool)}
    for part in sorted({group[0] for group in data.groups}):
        parts[part] = np.array([one.group[0] == part for one in data.rows])
    return fit_file(
        name=FIT,
        title="training runs of Megatron-LM and Megatron-Bridge: kernels inside them, and collectives in view",
        source="fitted to published iteration times of Megatron-LM and Megatron-Bridge (profiles/truth)",
        date=DATE,
        rows=len(data.rows),
        folds=folds,
        left_out=[left_out_errors(part, "iteration_time", *args, among_N) for part, among_N in parts.items()],
    )


def fit_measured() -> FitFile:
    data = training_measured.MeasuredData.of()
    folds = training_measured.cross_validate(data)
    seconds_N, memory_N = training_measured.left_out(data, folds)
    parts = {"all": np.ones(len(data.rows), dtype=bool), "alike": data.alike_N, "mixed": ~data.alike_N}
    figures = {"iteration_time": (seconds_N, data.seconds_N), "peak_memory": (memory_N, data.memory_N)}
    return fit_file(
        name=MEASURED,
        title="training runs from measured layers: Megatron-DeepSpeed in fp32",
        source="fitted to the measured runs of Sailor's artifact (MIT; profiles/truth)",
        date=DATE,
        rows=len(data.rows),
        folds=folds,
        left_out=[
            left_out_errors(part, figure, *both, data.group_N, among_N)
            for part, among_N in parts.items()
            for figure, both in figures.items()
        ],
    )


def show(fit: FitFile) -> None:
    print(f"{fit.title}: {fit.rows} rows, {len(fit.folds)} groups left out")
    for one in fit.left_out:
        print(
            f"  {one.part:10} {one.figure:14} {one.rows:4} rows  mean {one.mean_ape:6.1%}  median {one.median_ape:6.1%}"
            f"  bias {one.bias:+6.1%}  band {one.band:6.1%}  coverage {one.coverage:6.1%}"
        )
    for name, value in fit.constants.items():
        spread = [fold.constants[name] for fold in fit.folds]
        print(f"  {name:16} {value:.4g}  ({min(spread):.4g} to {max(spread):.4g} over the folds)")


def main() -> None:
    makers = [fit_measured, fit_runs]
    for make in makers[:1] if "--measured" in sys.argv else makers:
        started = time.monotonic()
        fit = make()
        show(fit)
        print(f"  {time.monotonic() - started:.0f} s")
        if "--write" in sys.argv:
            write_fit(fit, resource_dir("profiles") / "fits", by="benchmarks/fit_training.py")
        else:
            stored = load_fit(fit.name)
            print("  as stored" if stored == fit else "  differs from what is stored")


if __name__ == "__main__":
    main()
