"""Collectives among processes of this machine: NCCL on GPUs, gloo on the host."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from planner.profiling.measure.crew import Crew
from planner.profiling.measure.points import Point, Results, UnmeasurableError
from planner.profiling.measure.setup import Setup
from planner.profiling.measure.timing import summed_up

__all__ = ["measure_collective", "points"]

_OPERATIONS: Final = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
_MIB: Final = 2**20
_QUICK: Final = (16 * 1024, _MIB, 8 * _MIB)
_SIZES: Final = (1024, 16 * 1024, 128 * 1024, _MIB, 8 * _MIB, 64 * _MIB, 256 * _MIB, 1024 * _MIB)


def points(setup: Setup) -> Iterator[Point]:
    """Every operation by bytes and size of the group."""
    cuda = setup.backend.kind == "cuda"
    sizes = [size for size in (_QUICK if setup.quick else _SIZES) if cuda or size <= 64 * _MIB]
    for group in setup.group_sizes:
        for operation in _OPERATIONS:
            for size in sizes:
                yield Point.of(
                    "collectives",
                    "collective",
                    operation=operation,
                    dtype="bf16" if cuda else "fp32",  # gloo adds fp32 without converting
                    gpus=group,
                    nodes=1,
                    bytes=size,
                    library="nccl" if cuda else "gloo",
                )


def measure_collective(point: Point, setup: Setup) -> Results:
    """Time a collective: the slowest rank counts."""
    group, library = point.whole("gpus"), point.text("library")
    name = f"{library} {group}"
    crew = setup.crew(name, lambda: _ranks(group, library))
    question = (point.text("operation"), point.whole("bytes"), point.text("dtype"))
    probe = _slowest(crew.ask((*question, 1, 3)))
    one = max(min(probe), 1e-7)
    inner = max(1, min(100, round(setup.budget.reading / one)))
    repeats = max(setup.budget.least, min(setup.budget.most, round(setup.budget.seconds / (one * inner))))
    sample = summed_up(_slowest(crew.ask((*question, inner, repeats))))
    return {"seconds": sample.seconds, "spread": sample.spread}


def _slowest(readings: list[list[float]]) -> list[float]:
    return [max(ranks) for ranks in zip(*readings, strict=True)]


def _ranks(group: int, library: str) -> Crew:
    folder = tempfile.mkdtemp(prefix="hetplan-ranks-")
    try:
        meeting = (Path(folder) / "meeting").as_uri()
        return Crew(_rank, group, library, meeting, afterwards=lambda: shutil.rmtree(folder, ignore_errors=True))
    except UnmeasurableError as error:
        raise UnmeasurableError(f"no group of {group} over {library}: {error}") from None


def _rank(rank: int, size: int, ask: Callable[[object], object], library: str, meeting: str) -> None:
    """Body of a rank: answers with its readings."""
    import torch
    import torch.distributed as dist

    cuda = library == "nccl"
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        dist.init_process_group(library, init_method=meeting, rank=rank, world_size=size, device_id=device)
    else:
        torch.set_num_threads(1)
        dist.init_process_group(library, init_method=meeting, rank=rank, world_size=size)
    try:
        answer: object = rank
        while True:
            question = ask(answer)
            if not isinstance(question, tuple):
                return
            operation, length, dtype, inner, repeats = question
            kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
            run = _operation(torch, dist, operation, length, kind, device, rank, size)
            answer = [_reading(torch, dist, run, inner, cuda=cuda) for _ in range(repeats)]
            del run
    finally:
        dist.destroy_process_group()


def _operation(
    torch: Any, dist: Any, operation: str, length: int, kind: Any, device: Any, rank: int, size: int
) -> Callable[[], object]:
    """One run; `length` is bytes before an all-reduce, reduce-scatter, all-to-all or send, after an all-gather."""
    width = 2 if kind == torch.bfloat16 else 4
    part = max(1, length // width // size)
    whole = torch.zeros(part * size, dtype=kind, device=device)
    piece = torch.zeros(part, dtype=kind, device=device)
    other = torch.zeros_like(whole)

    def exchange() -> None:
        # a ring: every rank sends as much as it receives
        sends = dist.P2POp(dist.isend, whole, (rank + 1) % size)
        receives = dist.P2POp(dist.irecv, other, (rank - 1) % size)
        for work in dist.batch_isend_irecv([sends, receives]):
            work.wait()

    # The names changed in torch 2.14; the old ones warn there.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    return {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: gather(whole, piece),
        "reduce_scatter": lambda: scatter(piece, whole),
        "all_to_all": lambda: dist.all_to_all_single(other, whole),
        "send_recv": exchange,
    }[operation]


def _reading(torch: Any, dist: Any, run: Callable[[], object], inner: int, *, cuda: bool) -> float:
    if not cuda:
        dist.barrier()
        start = time.perf_counter()
        for _ in range(inner):
            run()
        return (time.perf_counter() - start) / inner
    dist.barrier()
    torch.cuda.synchronize()
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(inner):
        run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) * 1e-3 / inner
