"""The table that a person tunes by: the fastest uniform configurations of each pool, and what the next ones lose by."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.text import Text

from planner.cost.training_figures import model_flops, peak_flops
from planner.report.terminal import data_table, heading
from planner.report.words import count_of, format_memory, format_number
from planner.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from planner.cost.training_breakdown import Breakdown
    from planner.plan import TrainingPlan
    from planner.search.training.uniform import UniformTable
    from planner.search.training.uniform_space import Cell

__all__ = ["breakdown_table", "configurations_csv", "configurations_report", "loses_by"]

_WORDS: Final = {
    "compute": "kernels",
    "recomputation": "recomputation",
    "tensor_parallel": "TP traffic",
    "context_parallel": "CP traffic",
    "expert_parallel": "EP traffic",
    "sharding": "gathering weights",
    "hops": "hops",
    "imbalance": "uneven stages",
    "bubble": "bubble",
    "gradient_sync": "gradient sync",
    "optimizer": "optimizer",
    "other": "other",
}

_COLUMNS: Final = (
    "pool", "gpus", "fits", "tp", "pp", "cp", "ep", "dp", "virtual_stages", "microbatch", "microbatches", "recompute",
    "zero_stage", "sequence_parallel", "layers", "seconds", "mfu", "memory_bytes", "memory_limit_bytes",
)  # fmt: skip

# Of the best configuration's time: what is worth a word, and how many words there are of losses and of gains.
_LEAST, _LOSSES, _GAINS = 0.002, 3, 1
# Configurations that would be faster but do not fit.
_TOO_LARGE: Final = 3
# Share of the memory from which a reader is told how close it is.
_CLOSE: Final = 0.95


def loses_by(best: Breakdown, other: Breakdown) -> str:
    """Say where a configuration loses time against the best one, in per cent of the best one's time.

    Examples
    --------
    >>> from planner.cost.training_breakdown import Breakdown
    >>> zero = dict.fromkeys(Breakdown.__dataclass_fields__, 0.0)
    >>> best = Breakdown(**{**zero, "compute": 8.0, "tensor_parallel": 2.0})
    >>> loses_by(best, Breakdown(**{**zero, "compute": 8.0, "tensor_parallel": 1.0, "bubble": 1.5}))
    'bubble +15.0% (TP traffic -10.0%)'
    """
    whole = best.total
    mine, theirs = best.items(), other.items()
    change = sorted(((theirs[name] - mine[name]) / whole, name) for name in mine)
    losses = [f"{_WORDS[name]} {part:+.1%}" for part, name in reversed(change) if part >= _LEAST][:_LOSSES]
    gains = [f"{_WORDS[name]} {part:+.1%}" for part, name in change if part <= -_LEAST][:_GAINS]
    return ", ".join(losses) + (f" ({', '.join(gains)})" if gains and losses else "")


def breakdown_table(breakdown: Breakdown) -> RenderableType:
    """Tabulate where the seconds of an iteration go; what takes none is left out."""
    rows = [
        (_WORDS[name], format_seconds(seconds), f"{seconds / breakdown.total:.1%}".replace("%", " %"))
        for name, seconds in breakdown.items().items()
        if seconds >= 5e-4 * breakdown.total
    ]
    return data_table(["an iteration's time", ">", ">share"], rows)


def configurations_report(tables: Sequence[UniformTable], plan: TrainingPlan | None, *, top: int) -> RenderableType:
    """Lay out the best configurations of each pool.

    Parameters
    ----------
    tables
        One for each pool.
    plan
        What a search found on the whole cluster, to set beside them; None: nothing.
    top
        Rows of each pool, one for each set of degrees.
    """
    parts: list[RenderableType] = []
    for table in tables:
        parts += _pool(table, top)
    if plan is not None:
        parts.append(_beside(tables, plan))
    return Group(*parts, Text())


def _pool(table: UniformTable, top: int) -> list[RenderableType]:
    pool = table.problem.cluster.classes[table.node_class]
    title = f"Uniform configurations on {count_of(table.gpus, 'GPU')} of {pool.name} ({pool.device.title})"
    shown = _one_per_degrees(table, table.best_of_cells().tolist())
    counted = f"{len(table.ranked()):,} of {len(table):,} legal configurations fit"
    counted += "" if table.complete else "; the time limit left some out"
    parts: list[RenderableType] = [heading(title)]
    if shown:
        parts.append(_ranked(table, shown[:top]))
        counted += f"; {min(top, len(shown))} of {len(shown):,} sets of degrees shown, each at its best"
    parts.append(Text(counted, style="dim"))
    fastest = float(table.seconds_C[shown[0]]) if shown else float("inf")
    larger = _one_per_degrees(table, table.best_of_cells(fitting=False).tolist())
    larger = sorted((c for c in larger if table.seconds_C[c] < fastest), key=lambda c: table.memory_C[c])[:_TOO_LARGE]
    if larger:
        parts += [
            Text("would be faster but do not fit, the closest:" if shown else "do not fit, the closest:"),
            _too_large(table, larger),
        ]
    return parts


def _one_per_degrees(table: UniformTable, order: list[int]) -> list[int]:
    """The first of those that differ in chunks, layers, microbatch, recomputation and division of state only."""
    seen: set[tuple[int, ...]] = set()
    kept = []
    for c in order:
        cell = table.cells[int(table.cell_C[c])]
        degrees = (cell.tp, cell.pp, cell.cp, cell.ep)
        if degrees not in seen:
            seen.add(degrees)
            kept.append(c)
    return kept


def _ranked(table: UniformTable, shown: list[int]) -> RenderableType:
    problem = table.problem
    predictions = [table.placed(c).predict(problem) for c in shown]
    best = predictions[0]
    columns, rows = _degrees(table, shown)
    columns = [">", *columns, ">time", ">slower", ">MFU", ">GiB per GPU", "loses by"]
    cells = []
    for rank, (c, row, one) in enumerate(zip(shown, rows, predictions, strict=True), start=1):
        seconds, memory = float(table.seconds_C[c]), float(table.memory_C[c])
        words = loses_by(best.breakdown, one.breakdown) if rank > 1 else "best"
        if memory > _CLOSE * table.limit:
            words += f"; memory {memory / table.limit:.0%} full"
        cells.append(
            (
                str(rank),
                *row,
                format_seconds(seconds),
                "" if rank == 1 else f"{seconds / best.iteration_time - 1:+.1%}".replace("%", " %"),
                f"{one.figures['mfu'].value:.1%}".replace("%", " %"),
                format_memory(memory, table.limit),
                Text(words, style="green") if rank == 1 else words,
            )
        )
    return data_table(columns, cells, fold=("loses by", "layers"))


def _too_large(table: UniformTable, shown: list[int]) -> RenderableType:
    columns, rows = _degrees(table, shown)
    cells = [
        (*row, format_seconds(float(table.seconds_C[c])), format_memory(float(table.memory_C[c]), table.limit))
        for c, row in zip(shown, rows, strict=True)
    ]
    return data_table([*columns, ">time", ">GiB per GPU"], cells, fold=("layers",))


def _degrees(table: UniformTable, shown: list[int]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns of the degrees, those that are not all 1, and their cells."""
    chosen = [table.configuration(c) for c in shown]
    uneven = any(len(set(one.cell.layers)) > 1 for one in chosen)
    choices: list[tuple[str, list[str], bool]] = [
        (">TP", [str(one.cell.tp) for one in chosen], True),
        (">PP", [str(one.cell.pp) for one in chosen], True),
        (">CP", [str(one.cell.cp) for one in chosen], any(one.cell.cp > 1 for one in chosen)),
        (">EP", [str(one.cell.ep) for one in chosen], any(one.cell.ep > 1 for one in chosen)),
        (">DP", [str(one.cell.dp) for one in chosen], True),
        (">VPP", [str(one.cell.virtual_stages) for one in chosen], any(one.cell.virtual_stages > 1 for one in chosen)),
        (">micro", [str(one.microbatch) for one in chosen], True),
        ("recompute", [one.recompute for one in chosen], any(one.recompute != "none" for one in chosen)),
        (">ZeRO", [str(one.zero_stage) for one in chosen], len(table.choices.zero_stages) > 1),
        ("layers", [_layers(one.cell) for one in chosen], uneven),
    ]
    kept = [(name, cells) for name, cells, wanted in choices if wanted]
    return [name for name, _ in kept], list(zip(*(cells for _, cells in kept), strict=True))


def _layers(cell: Cell) -> str:
    """Layers of each stage, equal ones once: ``15, 6x16, 15``."""
    runs: list[list[int]] = []
    for count in cell.layers:
        if runs and runs[-1][1] == count:
            runs[-1][0] += 1
        else:
            runs.append([1, count])
    return ", ".join(str(count) if times == 1 else f"{times}x{count}" for times, count in runs)


def _beside(tables: Sequence[UniformTable], plan: TrainingPlan) -> RenderableType:
    found = plan.predicted["iteration_time"].value
    fastest = [float(table.seconds_C[order[0]]) for table in tables if len(order := table.ranked())]
    text = f"the plan found: {format_seconds(found)}"
    if fastest:
        ratio = min(fastest) / found
        if ratio < 1 - 1e-9:
            text += (
                f", {format_number(100 * (1 / ratio - 1))} % slower than the best row; --method uniform plans that row"
            )
        elif ratio > 1 + 1e-9:
            text += f", {format_number(100 * (1 - 1 / ratio))} % faster than the best row"
        else:
            text += ", as fast as the best row"
    return Text(text)


def configurations_csv(tables: Sequence[UniformTable]) -> str:
    """Every legal configuration as CSV, pool by pool, those that fit first, each fastest first."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(_COLUMNS)
    for table in tables:
        problem = table.problem
        pool = problem.cluster.classes[table.node_class]
        gpus = [f"{node}/{i}" for node in pool.nodes for i in range(pool.gpus_per_node)][: table.gpus]
        ideal = model_flops(problem.model, problem.job) / peak_flops(problem.model, problem.cluster, gpus)
        for fits in (True, False):
            for c in table.ranked(fitting=fits):
                one = table.configuration(int(c))
                cell, seconds = one.cell, float(table.seconds_C[c])
                out.writerow(
                    [
                        pool.name,
                        table.gpus,
                        fits,
                        cell.tp,
                        cell.pp,
                        cell.cp,
                        cell.ep,
                        cell.dp,
                        cell.virtual_stages,
                        one.microbatch,
                        problem.job.global_batch // (cell.dp * one.microbatch),
                        one.recompute,
                        one.zero_stage,
                        cell.sequence_parallel,
                        "|".join(map(str, cell.layers)),
                        repr(seconds),
                        repr(ideal / seconds),
                        repr(float(table.memory_C[c])),
                        repr(table.limit),
                    ]
                )
    return text.getvalue()
