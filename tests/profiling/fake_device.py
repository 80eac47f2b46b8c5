"""Devices for tests of the profiler: one that measures nothing, and a torch that only counts."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

from planner.profiling.measure.backend import DeviceFacts
from planner.profiling.measure.timing import Sample

__all__ = ["FakeBackend", "FakeTorch"]


class FakeBackend:
    """A processor without a torch: its families are replaced by the test."""

    kind = "cpu"
    dtypes = ("bf16",)
    evict_bytes = 0
    flop_limit = 1e9

    def __init__(self, title: str = "Fake Processor") -> None:
        self.torch = SimpleNamespace(manual_seed=lambda seed: None)
        self.device = "cpu"
        self.facts = DeviceFacts("fake", title, "Nobody", 2**34, 2, "torch 0")

    def time(self, work, budget):
        work.run(0)
        return Sample(1e-3, 0.0, 1)

    def free_bytes(self) -> int:
        return 2**30

    def peak_bytes(self, run) -> int:
        run()
        return 0

    def state(self) -> str:
        return "1000 MHz"

    def release(self) -> None:
        pass


class FakeTorch:
    """As much of torch as `CudaBackend` speaks to; every call that matters goes into `log`."""

    int8, __version__ = "int8", "0"

    def __init__(self, *, name: str = "NVIDIA H100 80GB HBM3", capability: tuple[int, int] = (9, 0)) -> None:
        self.log: list[str] = []
        self.now = 0.0
        self.capturing = self.refuse_capture = False
        self.version = SimpleNamespace(cuda="13.0")
        self.backends = SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=True)))
        self.properties = SimpleNamespace(
            name=name,
            major=capability[0],
            minor=capability[1],
            L2_cache_size=50 * 2**20,
            total_memory=80 * 2**30,
            multi_processor_count=132,
        )
        torch = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at = 0.0

            def record(self) -> None:
                self.at = torch.now

            def synchronize(self) -> None:
                torch.log.append("synchronize")

            def elapsed_time(self, end) -> float:
                return (end.at - self.at) * 1e3

        class CUDAGraph:
            def replay(self) -> None:
                torch.log.append("replay")
                torch.now += self.seconds

            def reset(self) -> None:
                torch.log.append("reset")

        @contextmanager
        def graph(it, stream):
            if torch.refuse_capture:
                raise RuntimeError("operation not permitted when stream is capturing")
            torch.capturing, torch.captured = True, 0.0
            yield
            torch.capturing = False
            it.seconds = torch.captured

        @contextmanager
        def on_stream(stream):
            yield

        self.cuda = SimpleNamespace(
            set_device=lambda device: self.log.append(f"set_device {device[1]}"),
            get_device_properties=lambda device: self.properties,
            Stream=lambda device: SimpleNamespace(wait_stream=lambda other: None),
            current_stream=lambda device: None,
            stream=on_stream,
            Event=Event,
            CUDAGraph=CUDAGraph,
            graph=graph,
            synchronize=lambda device: self.log.append("device synchronize"),
        )

    def device(self, kind: str, index: int) -> tuple[str, int]:
        return kind, index

    def empty(self, size: int, dtype: str, device: object):
        return SimpleNamespace(zero_=lambda: self.log.append("flush"))

    def kernel(self, seconds: float, launch: float = 20e-6):
        """An operation: from the host it takes its launch too, in a graph it does not."""

        def run(at: int) -> None:
            self.log.append(f"run {at}")
            if self.capturing:
                self.captured += seconds
            else:
                self.now += seconds + launch

        return run
