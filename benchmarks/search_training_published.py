"""Published Megatron-LM configurations among all legal ones: how far from the best, and at which rank, by prediction.

For each run of SC 2021's table 1, of Megatron-LM's H100 table and of Megatron-Bridge's summaries every legal uniform
configuration on the same GPUs, batch, sequence and formats is priced, under the constants that ship. The best that fits
must be no slower than the published one wherever that is legal and fits, and the published one must be among the first
tenth of those that fit in four of five cases. Nothing was chosen or fitted with these ranks in view.

What may be chosen is what the software of the table had: SC 2021 no division of state, no sequence and no context
parallelism, which all later had; Megatron-Bridge also fully sharded state, without pipeline stages. Where a table does
not tell microbatch or interleaving, the published run is the fastest usual one that fits, as for its accuracy.

Exits with 1 where either is missed. With ``--left-out`` each run and all that it is compared with are priced by
constants that have seen neither its table nor its GPU type.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.engine import EngineProfile
from planner.engine.fitted import load_fit
from planner.plan import TrainingJob
from planner.profiling.accuracy.megatron import FIT, TABLES
from planner.profiling.accuracy.records import SkipRowError
from planner.profiling.accuracy.registry import load_truth
from planner.profiling.accuracy.training import Setting, engine_with, run_cluster
from planner.search.problem import TrainingProblem
from planner.search.training.uniform import UniformTable, uniform_table
from planner.search.training.uniform_space import Cell, Choices, UniformConfiguration

CHOICES = {
    "training_megatron_sc21": Choices(
        zero_stages=(0,), recomputes=("none", "full"), sequence_parallel=False, context_parallel=False
    ),
    "training_megatron_h100": Choices(zero_stages=(1,), recomputes=("none", "full")),
    "training_megatron_bridge": Choices(zero_stages=(1, 3), recomputes=("none", "full")),
}
TENTH, SHARE = 0.1, 0.8
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Case:
    """A published run among all legal ones.

    Its rank is the place that its time takes among those that fit; `alike` the same (and their number) among those that
    recompute as it does; `degrees` that of its TP, PP and CP, where each set of degrees counts once and at its best.
    """

    table: str
    rows: tuple[int, ...]
    setting: Setting
    legal: int
    fitting: int
    published: float
    fill: float
    best: float
    best_is: str
    rank: int
    alike: tuple[int, int]
    degrees: tuple[int, int]

    @property
    def fits(self) -> bool:
        """Whether the memory model says that it fits."""
        return self.fill <= 1.0

    @property
    def in_tenth(self) -> bool:
        """Whether it ranks among the first tenth."""
        return self.rank <= max(1, TENTH * self.fitting)


def published_runs(table: str) -> Iterator[tuple[tuple[int, ...], Setting]]:
    """Distinct runs of a table, with the rows that repeat them."""
    found: dict[str, tuple[list[int], Setting]] = {}
    for row in load_truth(table).rows:
        try:
            setting, _ = TABLES[table](row).fastest(None)
        except SkipRowError as reason:
            print(f"{table} row {row.number}: left out: {reason}")
            continue
        facts = [setting.model.name, setting.device.name, setting.global_batch, setting.sequence_length]
        facts += [in_words(_published(setting)), str(setting.options), str(setting.layers)]
        found.setdefault(repr(facts), ([], setting))[0].append(row.number)
    for rows, setting in found.values():
        yield tuple(rows), setting


def _published(setting: Setting) -> UniformConfiguration:
    cell = Cell(
        tp=setting.tp,
        cp=setting.context_parallel,
        dp=setting.dp,
        ep=1,
        virtual_stages=setting.virtual_stages,
        layers=setting.layers,
        sequence_parallel=setting.sequence_parallel and setting.tp > 1,
    )
    return UniformConfiguration(
        cell=cell, microbatch=setting.microbatch, recompute=setting.recompute, zero_stage=setting.zero_stage
    )


def _engine(table: str, setting: Setting, *, left_out: bool) -> EngineProfile:
    if not left_out:
        return engine_with(None)
    name = table.removeprefix("training_megatron_")
    group = (name, setting.device.name) if name == "bridge" else (name,)
    return engine_with(next(fold.constants for fold in load_fit(FIT).folds if fold.group == group))


def all_of(table: str, setting: Setting, *, left_out: bool) -> UniformTable:
    """Every legal configuration on the GPUs of a run."""
    gpus = setting.tp * setting.dp * setting.context_parallel * len(setting.layers)
    cluster = run_cluster(
        setting.device.name, -(-gpus // setting.gpus_per_node), min(gpus, setting.gpus_per_node), setting.nic
    )
    problem = TrainingProblem(
        model=setting.model,
        cluster=cluster,
        engine=_engine(table, setting, left_out=left_out),
        job=TrainingJob(
            global_batch=setting.global_batch,
            sequence_length=setting.sequence_length,
            zero_stage=setting.zero_stage,
        ),
    )
    return uniform_table(problem, 0, gpus=gpus, choices=CHOICES[table], options=setting.options)


def case(table: str, rows: tuple[int, ...], setting: Setting, *, left_out: bool) -> Case | None:
    """Rank a run; None where it is not among the legal configurations."""
    every, wanted = all_of(table, setting, left_out=left_out), _published(setting)
    mine = next((c for c in range(len(every)) if every.configuration(c) == wanted), None)
    if mine is None:
        return None
    order = every.ranked()
    seconds = every.seconds_C[order]
    published = float(every.seconds_C[mine])
    recompute = np.array([every.choices.recomputes[r] for r in every.recompute_C[order]])
    ahead = seconds < published * (1 - ROUNDING)
    alike = recompute == setting.recompute
    return Case(
        table=table.removeprefix("training_megatron_"),
        rows=rows,
        setting=setting,
        legal=len(every),
        fitting=len(order),
        published=published,
        fill=float(every.memory_C[mine]) / every.limit,
        best=float(seconds[0]),
        best_is=in_words(every.configuration(int(order[0]))),
        rank=int(ahead.sum()) + 1,
        alike=(int((ahead & alike).sum()) + 1, int(alike.sum())),
        degrees=_rank_of_degrees(every, wanted.cell),
    )


def _rank_of_degrees(every: UniformTable, cell: Cell) -> tuple[int, int]:
    best: dict[tuple[int, int, int], float] = {}
    for c in every.best_of_cells():
        one = every.configuration(int(c)).cell
        best.setdefault((one.tp, one.pp, one.cp), float(every.seconds_C[c]))
    mine = best.get((cell.tp, cell.pp, cell.cp), float("inf"))
    return sum(seconds < mine * (1 - ROUNDING) for seconds in best.values()) + 1, len(best)


def in_words(one: UniformConfiguration) -> str:
    """Degrees, microbatch, recomputation and division of state in few letters."""
    cell = one.cell
    degrees = [("TP", cell.tp), ("PP", cell.pp), ("CP", cell.cp), ("DP", cell.dp), ("VP", cell.virtual_stages)]
    text = " ".join(f"{name}{size}" for name, size in degrees if size > 1) or "1 GPU"
    text += f" b{one.microbatch}" + (f" {one.recompute}" if one.recompute != "none" else "")
    return text + (" FSDP" if one.zero_stage == 3 else "")


def why_too_large(setting: Setting) -> str:
    """What a run has that the table does not tell, where that is known."""
    if setting.zero_stage == 3:
        return "its recipe keeps activations of 10 to 40 layers on the host, which is not modelled"
    return "the row does not tell of recomputation or of activations on the host"


def main(*, left_out: bool = False) -> int:
    """Print the table of regrets; 1 where the acceptance is missed."""
    started = time.monotonic()
    cases: list[Case] = []
    outside = 0
    print("table   model            GPUs             format  published                        s   best legal", end="")
    print("                       s  regret   rank of fitting (legal)   top")
    for table in CHOICES:
        for rows, setting in published_runs(table):
            one = case(table, rows, setting, left_out=left_out)
            if one is None:
                outside += 1
                print(f"{table} rows {rows}: {in_words(_published(setting))} is not legal here")
                continue
            cases.append(one)
            gpus = setting.tp * setting.dp * setting.context_parallel * len(setting.layers)
            place = one.rank / max(one.fitting, 1)
            print(
                f"{one.table:7s} {setting.model.name:16s} {gpus:5d} {setting.device.name:11s}"
                f" {setting.options.matrix_format:6s} {in_words(_published(setting)):25s} {one.published:8.3f}"
                f"   {one.best_is:25s} {one.best:8.3f} {one.published / one.best - 1:+7.1%}"
                f" {one.rank:6d} of {one.fitting:5d} ({one.legal:5d}) {place:6.1%}"
                + ("" if one.in_tenth else "  not in the first tenth")
                + ("" if one.fits else f"  needs {one.fill:.2f} of the memory: {why_too_large(setting)}")
            )
    return _summary(cases, outside, time.monotonic() - started)


def _summary(cases: list[Case], outside: int, seconds: float) -> int:
    inside = [one for one in cases if one.fits]
    slower = [one for one in inside if one.best > one.published * (1 + ROUNDING)]
    first = [one for one in cases if one.in_tenth]
    first_inside = [one for one in inside if one.in_tenth]
    regrets = sorted(one.published / one.best - 1 for one in inside)
    print(
        f"\n{len(cases)} published runs ({sum(len(one.rows) for one in cases)} rows), {outside} not legal,"
        f" {len(cases) - len(inside)} legal but too large by the memory model"
    )
    print(
        f"best found is no slower than the published one in {len(inside) - len(slower)} of {len(inside)} that fit;"
        f" regret median {np.median(regrets):.1%}, largest {regrets[-1]:.1%}"
    )
    print(
        f"published among the first {TENTH:.0%}: {len(first)} of {len(cases)} = {len(first) / len(cases):.0%}"
        f" (of those that fit: {len(first_inside)} of {len(inside)} = {len(first_inside) / len(inside):.0%});"
        f" wanted {SHARE:.0%}"
    )
    tenth = [one for one in inside if one.degrees[0] <= max(1, TENTH * one.degrees[1])]
    quarter = [one for one in inside if one.degrees[0] <= max(1, 0.25 * one.degrees[1])]
    print(
        f"its TP, PP and CP, each set at its best, of those that fit: among the first tenth in {len(tenth)} of"
        f" {len(inside)}, the first quarter in {len(quarter)}"
    )
    for one in cases:
        if not one.in_tenth and one.setting.recompute == "full":
            rank, number = one.alike
            print(
                f"  {one.table} {one.setting.model.name}: every run of the table recomputes all; among"
                f" those that do it is {rank} of {number}"
            )
    priced = sum(one.legal for one in cases)
    print(f"{priced:,} configurations priced in {seconds:.0f} s")
    missed = bool(slower) or min(len(first) / len(cases), len(first_inside) / len(inside)) < SHARE or outside > 0
    print("acceptance missed" if missed else "acceptance met")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(left_out="--left-out" in sys.argv[1:]))
