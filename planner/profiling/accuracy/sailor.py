"""Sailor's measured training runs: OPT-350M on GH200 nodes, and on three types of consumer GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from planner.profiling.accuracy.names import device_of, model_of
from planner.profiling.accuracy.records import Comparison, FigureName, Layout, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.table import Row
from planner.profiling.accuracy.training import Setting, price

__all__ = ["SAILOR"]

_ENGINE: Final = "megatron"
# Alps: four superchips per node, each with a Slingshot-11 card of 200 Gb/s.
_ALPS_NODE: Final = 4
_ALPS_NIC: Final = 100e9
_TYPE: Final = re.compile(r"(?P<gpu>[A-Za-z0-9-]+):\d+")


def _stage_layers(row: Row) -> tuple[int, ...]:
    """Transformer layers of each stage: the artifact counts the embedding and the head as layers."""
    counts = [int(part) for part in row.text("layers_per_stage").split("/") if part.isdigit()]
    if sum(counts) != row.whole("layers") + 2 or len(counts) != row.whole("pp"):
        raise SkipRowError(f"layers per stage {row.text('layers_per_stage')!r} do not add up to the model")
    counts[0] -= 1
    counts[-1] -= 1
    return tuple(counts)


def _compare(row: Row) -> Iterator[Comparison]:
    types = _TYPE.findall(row.text("gpus_by_type"))
    if len(types) != 1:
        raise SkipRowError("mixed GPU types on a network that the row does not state")
    if types[0] != "GH-96":
        raise SkipRowError(f"the network between {types[0]} nodes is not known")
    device, model = device_of(types[0]), model_of(row.text("model"))
    run = price(
        Setting(
            model=model,
            device=device,
            gpus_per_node=_ALPS_NODE,
            nic=_ALPS_NIC,
            tp=row.whole("tp"),
            dp=row.whole("dp"),
            layers=_stage_layers(row),
            global_batch=row.whole("gbs"),
            sequence_length=row.whole("seq_len"),
            microbatch=row.whole("mbs"),
        )
    )
    figures: tuple[tuple[FigureName, float, float, float], ...] = (
        ("iteration_time", row.number_of("iter_time_s"), run.seconds, run.seconds_error),
        ("peak_memory", row.number_of("max_mem_bytes"), max(run.memory_S), run.memory_error),
    )
    for figure, measured, predicted, error in figures:
        yield Comparison(
            row=row.number,
            model=model.name,
            device=device.name,
            engine=_ENGINE,
            figure=figure,
            measured=measured,
            predicted=predicted,
            error=error,
        )


def _predict(rows: Sequence[Row]) -> Iterator[Outcome]:
    for row in rows:
        try:
            yield from _compare(row)
        except SkipRowError as reason:
            yield Skipped(row.number, str(reason))


SAILOR: Final = Layout(
    name="training_sailor",
    title="Sailor's measured training runs",
    columns=("model", "gpus_by_type", "layers_per_stage", "stage_gpus", "tp", "dp", "mbs", "gbs", "iter_time_s"),
    predict=_predict,
    fitted="Nothing was fitted to these rows. Priced from data sheets and borrowed efficiencies, without Sailor's own "
    "layer profiles: small layers are bound by launches, which this does not know.",
)
