"""An NVIDIA GPU through torch: events, CUDA graphs, L2 flush, and what NVML says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from planner.cluster import load_device
from planner.cluster.loading import slug
from planner.dtypes import Dtype
from planner.errors import InputError
from planner.profiling.measure.backend import DeviceFacts, Work
from planner.profiling.measure.timing import Sample, TimeBudget, sampled

__all__ = ["CudaBackend"]

_MIB: Final = 2**20
_GRAPH_BELOW: Final = 500e-6  # seconds: longer operations hide their launch by themselves
_MOST_IN_GRAPH: Final = 64
_THROTTLED: Final = {  # NVML's bits for reasons that make a measurement doubtful
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


class CudaBackend:
    """Times operations between two events on one stream.

    Small operations run inside a CUDA graph, several in a row on operands taken in turns, so that neither the
    host's launch nor the L2 cache is part of the figure. What the launch costs is measured apart.

    Parameters
    ----------
    torch
        The module.
    index
        Number of the GPU.
    quick
        Small sizes.
    """

    kind: Literal["cpu", "cuda"] = "cuda"

    def __init__(self, torch: Any, index: int, *, quick: bool) -> None:
        self.torch, self.device = torch, torch.device("cuda", index)
        torch.cuda.set_device(self.device)
        torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
        properties = torch.cuda.get_device_properties(self.device)
        capability = (properties.major, properties.minor)
        dtypes: list[Dtype] = ["fp16", "fp32"]
        if capability >= (8, 0):
            dtypes.insert(0, "bf16")
        if capability >= (8, 9):
            dtypes.append("fp8")
        self.dtypes: tuple[Dtype, ...] = tuple(dtypes)
        cache = int(getattr(properties, "L2_cache_size", 0)) or 64 * _MIB
        self.evict_bytes = 2 * cache
        self.flop_limit = 1e13 if quick else 2e14
        self._flush = torch.empty(self.evict_bytes, dtype=torch.int8, device=self.device)
        self._stream = torch.cuda.Stream(self.device)
        self._nvml = _Nvml.open(torch, self.device)
        driver = f", driver {self._nvml.driver}" if self._nvml else ""
        self.facts = DeviceFacts(
            name=_registered(properties.name) or slug(properties.name),
            title=properties.name,
            vendor="NVIDIA",
            memory=int(properties.total_memory),
            cores=int(properties.multi_processor_count),
            software=f"torch {torch.__version__}, CUDA {torch.version.cuda}{driver}",
            compute_capability=f"{capability[0]}.{capability[1]}",
            registered=_registered(properties.name),
        )

    def time(self, work: Work, budget: TimeBudget) -> Sample:
        """Time with events: inside a graph where the operation is short and allows it."""
        cuda = self.torch.cuda
        self._stream.wait_stream(cuda.current_stream(self.device))
        with cuda.stream(self._stream):
            for at in range(min(3, 2 * work.sets)):  # loads kernels, chooses algorithms, fills workspaces
                work.run(at % work.sets)
            eager = min(self._between_events(lambda: work.run(0)) for _ in range(3))
            if work.graph and eager < _GRAPH_BELOW:
                # The launch from the host is still part of the probe: a few more runs than needed do no harm.
                inner = max(work.sets, min(_MOST_IN_GRAPH, round(budget.reading / max(eager, 1e-9))))
                graph = self._captured(work, min(inner, _MOST_IN_GRAPH))
                if graph is not None:
                    count = min(inner, _MOST_IN_GRAPH)
                    sample = sampled(lambda _: self._between_events(graph.replay) / count, budget)
                    graph.reset()
                    return sample
            at = 0

            def reading(inner: int) -> float:
                def several() -> None:
                    nonlocal at
                    for _ in range(inner):
                        work.run(at)
                        at = (at + 1) % work.sets

                return self._between_events(several) / inner

            return sampled(reading, budget)

    def _between_events(self, run: Callable[[], object]) -> float:
        """Seconds between an event before and one after; the L2 cache is overwritten first."""
        start = self.torch.cuda.Event(enable_timing=True)
        end = self.torch.cuda.Event(enable_timing=True)
        self._flush.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def _captured(self, work: Work, count: int) -> Any:
        """Return a CUDA graph of so many runs; None where the operation cannot be captured."""
        graph = self.torch.cuda.CUDAGraph()
        try:
            with self.torch.cuda.graph(graph, stream=self._stream):
                for at in range(count):
                    work.run(at % work.sets)
        except RuntimeError:
            self.torch.cuda.synchronize(self.device)
            return None
        return graph

    def free_bytes(self) -> int:
        """Return 80 % of what the driver says is free."""
        free, _ = self.torch.cuda.mem_get_info(self.device)
        return int(free * 0.8)

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Most bytes allocated during the call beyond those before."""
        cuda = self.torch.cuda
        cuda.synchronize(self.device)
        before = cuda.memory_allocated(self.device)
        cuda.reset_peak_memory_stats(self.device)
        run()
        cuda.synchronize(self.device)
        return int(cuda.max_memory_allocated(self.device) - before)

    def state(self) -> str:
        """Clocks, power, temperature, and why the clock is lowered if it is."""
        return self._nvml.state() if self._nvml else "NVML is not installed: clocks and temperature are unknown"

    def release(self) -> None:
        """Give cached blocks back to the driver."""
        self.torch.cuda.synchronize(self.device)
        self.torch.cuda.empty_cache()


def _registered(name: str) -> str | None:
    try:
        return load_device(name).name
    except InputError:
        return None


class _Nvml:
    """What the driver's library tells about one GPU."""

    def __init__(self, module: Any, handle: Any) -> None:
        self._module, self._handle = module, handle
        version = module.nvmlSystemGetDriverVersion()
        self.driver = version.decode() if isinstance(version, bytes) else str(version)

    @classmethod
    def open(cls, torch: Any, device: Any) -> _Nvml | None:
        """None without nvidia-ml-py or its library."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            # By UUID: CUDA_VISIBLE_DEVICES renumbers the GPUs for torch, not for NVML.
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
        except (pynvml.NVMLError, AttributeError):
            return None

    def state(self) -> str:
        """One line; a figure that this GPU does not tell is left out."""
        nvml, handle = self._module, self._handle
        parts = []
        questions: tuple[tuple[str, Callable[[], float]], ...] = (
            ("SM clock {} MHz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            ("at most {} MHz", lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            ("memory clock {} MHz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            ("power limit {:.0f} W", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            ("{} C", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        )
        for text, ask in questions:
            try:
                parts.append(text.format(ask()))
            except nvml.NVMLError:
                continue
        try:
            reasons = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        except nvml.NVMLError:
            reasons = 0
        slowed = [name for bit, name in _THROTTLED.items() if reasons & bit]
        return ", ".join(parts + ([f"slowed by {' and '.join(slowed)}"] if slowed else []))
