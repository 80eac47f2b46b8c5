"""Memory: copies on the device, to and from the host, on the host by threads; and operators that only move bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from planner.profiling.measure.backend import Work
from planner.profiling.measure.cpu import core_count
from planner.profiling.measure.points import Point, Results
from planner.profiling.measure.setup import Setup

__all__ = [
    "copy_points",
    "elementwise_points",
    "launch_points",
    "measure_copy",
    "measure_elementwise",
    "measure_launch",
]

_MIB: Final = 2**20
_OPERATIONS: Final = ("rms_norm", "silu_mul", "add")


def copy_points(setup: Setup) -> Iterator[Point]:
    """Copies by direction, bytes, and on the host by threads."""
    sizes = [4 * _MIB, 64 * _MIB] if setup.quick else [64 * 1024, _MIB, 16 * _MIB, 256 * _MIB, 1024 * _MIB]
    if setup.backend.kind == "cuda":
        for direction in ("device", "host_to_device", "device_to_host"):
            for size in sizes:
                yield Point.of("copy", "copy", direction=direction, bytes=size, threads=0)
    cores = core_count()
    threads = sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores})
    for size in sizes:
        for count in threads:
            yield Point.of("copy", "copy", direction="host", bytes=size, threads=count)


def measure_copy(point: Point, setup: Setup) -> Results:
    """Time a copy; its time is that of `bytes` read and as many written."""
    torch, direction, size = setup.backend.torch, point.text("direction"), point.whole("bytes")
    if direction == "host":
        return _host_copy(torch, size, point.whole("threads"), setup)
    device = setup.backend.device
    sets = setup.sets_for(2 * size) if direction == "device" else 1

    def tensor(place: Any) -> Any:
        return torch.zeros(size, dtype=torch.uint8, device=place, pin_memory=place == "cpu")

    source = [tensor("cpu" if direction == "host_to_device" else device) for _ in range(sets)]
    target = [tensor("cpu" if direction == "device_to_host" else device) for _ in range(sets)]

    def run(at: int) -> object:
        return target[at].copy_(source[at], non_blocking=True)

    sample = setup.backend.time(Work(run, sets, graph=direction == "device"), setup.budget)
    return {"seconds": sample.seconds, "spread": sample.spread}


def _host_copy(torch: Any, size: int, threads: int, setup: Setup) -> Results:
    from planner.profiling.measure.cpu import CpuBackend

    host = setup.backend if setup.backend.kind == "cpu" else CpuBackend(torch, quick=setup.quick)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # At least the last-level cache must be outgrown, whatever else is small: this is the memory's bandwidth.
        sets = max(1, min(64, round(2 * host.evict_bytes / (2 * size) + 0.5)))
        source = [torch.zeros(size, dtype=torch.uint8) for _ in range(sets)]
        target = [torch.ones(size, dtype=torch.uint8) for _ in range(sets)]
        sample = host.time(Work(lambda at: target[at].copy_(source[at]), sets), setup.budget)
    finally:
        torch.set_num_threads(before)
    return {"seconds": sample.seconds, "spread": sample.spread}


def elementwise_points(setup: Setup) -> Iterator[Point]:
    """Norm, gated activation and residual addition by tokens."""
    tokens = (1024,) if setup.quick else (64, 1024, 8192)
    for operation in _OPERATIONS:
        for count in tokens:
            yield Point.of(
                "elementwise", "elementwise", operation=operation, dtype=setup.half, tokens=count, width=4096
            )


def measure_elementwise(point: Point, setup: Setup) -> Results:
    """Time one operator; bytes moved: 2 tensors of tokens x width for the norm, 3 for the others."""
    functional = setup.backend.torch.nn.functional
    tokens, width, dtype = point.whole("tokens"), point.whole("width"), point.text("dtype")
    sets = setup.sets_for(3 * 2 * tokens * width)
    first = [setup.random(tokens, width, dtype=dtype) for _ in range(sets)]
    second = [setup.random(tokens, width, dtype=dtype) for _ in range(sets)]
    weight = setup.random(width, dtype=dtype)
    operations = {
        "rms_norm": lambda at: functional.rms_norm(first[at], (width,), weight, 1e-5),
        "silu_mul": lambda at: functional.silu(first[at]).mul_(second[at]),
        "add": lambda at: first[at] + second[at],
    }
    with setup.backend.torch.no_grad():
        sample = setup.backend.time(Work(operations[point.text("operation")], sets), setup.budget)
    return {"seconds": sample.seconds, "spread": sample.spread}


def launch_points(setup: Setup) -> Iterator[Point]:
    """What starting a kernel costs: from the host, and inside a CUDA graph where there is one."""
    yield Point.of("launch", "launch", mode="eager")
    if setup.backend.kind == "cuda":
        yield Point.of("launch", "launch", mode="graph")


def measure_launch(point: Point, setup: Setup) -> Results:
    """Time an operator on one number."""
    torch, graph = setup.backend.torch, point.text("mode") == "graph"
    number = torch.zeros(1, device=setup.backend.device)
    sample = setup.backend.time(Work(lambda _: number.add_(1.0), graph=graph), setup.budget)
    return {"seconds": sample.seconds, "spread": sample.spread}
