"""Degrees of parallelism of a replica as truth rows write them, and as they were run.

Rows whose id says ``tpT_epE`` were run on T GPUs with experts in E groups; where E is more than 1, tp_size and
attention_dp_size of these rows are written as the product of moe_tp_size and moe_ep_size, both of which say T: the same
measurement occurs under another id with tp_size T, and no engine cuts experts in T and spreads them over T on T GPUs.
"""

from __future__ import annotations

import re
from typing import Final

from planner.cost.parallelism import ReplicaParallelism
from planner.errors import InputError
from planner.profiling.accuracy.records import SkipRowError
from planner.profiling.accuracy.table import Row

__all__ = ["gpus_of", "parallelism_of", "requests_of"]

_ID: Final = re.compile(r"_tp(\d+)(?:_0)?_ep(\d+)(?:_0)?_\d+$")


def parallelism_of(row: Row, role: str = "") -> ReplicaParallelism:
    """How the GPUs of a row share a layer.

    Parameters
    ----------
    row
        The row.
    role
        ``"prefill_"`` or ``"decode_"`` where a row has both.

    Raises
    ------
    SkipRowError
        If its degrees do not go together.
    """
    tp, dp = (row.whole(f"{role}{name}", default=1) for name in ("tp_size", "attention_dp_size"))
    moe_tp, moe_ep = (_or_none(row, f"{role}{name}") for name in ("moe_tp_size", "moe_ep_size"))
    named = _ID.search(row.text("id"))
    if not role and named is not None and moe_tp == moe_ep == int(named[1]) > 1 and tp * dp == moe_tp * moe_ep:
        gpus = moe_tp
        tp, dp, moe_tp = (1, gpus, 1) if dp > 1 else (gpus, 1, 1)
    try:
        if moe_tp * moe_ep <= 1:  # dense rows write 1, or nothing
            return ReplicaParallelism(tp=tp, attention_dp=dp)
        return ReplicaParallelism(tp=tp, attention_dp=dp, moe_tp=moe_tp, moe_ep=moe_ep)
    except InputError as error:
        raise SkipRowError(str(error).split("\n")[0]) from None


def _or_none(row: Row, name: str) -> int:
    """A degree; 0 where the row writes that or nothing, as dense rows do."""
    return 0 if row.text(name) in ("", "0") else row.whole(name)


def requests_of(row: Row) -> float:
    """Requests under way: the batch size of a row counts those of one rank of attention of one decode worker."""
    role = _decoding(row)
    workers = row.whole(f"{role}num_workers", default=1) if role else 1
    ranks = row.whole(f"{role}attention_dp_size", default=1)
    return row.number_of(f"{role}batch_size") * workers * ranks


def gpus_of(row: Row) -> int:
    """GPUs of all workers of a row."""
    if not _decoding(row):
        return parallelism_of(row).gpus * row.whole("pp_size", default=1)
    return sum(
        row.whole(f"{role}_num_workers")
        * parallelism_of(row, f"{role}_").gpus
        * row.whole(f"{role}_pp_size", default=1)
        for role in ("prefill", "decode")
    )


def _decoding(row: Row) -> str:
    return "decode_" if row.text("mode") == "disagg" else ""
