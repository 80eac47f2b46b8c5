"""The one interface to the device that is measured; behind it stand a CPU and CUDA, and fakes in tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from planner.dtypes import Dtype
from planner.errors import InputError
from planner.profiling.measure.timing import Sample, TimeBudget

__all__ = ["Backend", "DeviceFacts", "Work", "need_torch", "open_backend", "torch_dtype"]

_TORCH_NAMES: Final[dict[str, str]] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8_e4m3fn",
    "int8": "int8",
}


@dataclass(frozen=True, slots=True)
class Work:
    """An operation with its operands.

    Parameters
    ----------
    run
        Runs it once on the given set of operands.
    sets
        How many sets there are: taken in turns, so that none is found in a cache.
    graph
        Whether it may run inside a CUDA graph, which hides the launch from the host.
    """

    run: Callable[[int], object]
    sets: int = 1
    graph: bool = True


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What the device says about itself.

    Parameters
    ----------
    name
        For files: ``"h100_sxm"``, ``"intel_xeon_processor"``.
    title
        As the driver or the operating system calls it.
    vendor
        Its maker.
    memory
        Bytes.
    cores
        Cores that this process may use (CPU), or multiprocessors.
    software
        torch, CUDA, driver with versions.
    compute_capability
        Of NVIDIA GPUs.
    registered
        Name of the shipped profile of this device, where there is one.
    """

    name: str
    title: str
    vendor: str
    memory: int
    cores: int
    software: str
    compute_capability: str | None = None
    registered: str | None = None

    @property
    def profile_name(self) -> str:
        """Name of the profile that is written.

        Not that of a shipped one: the cost model would take the surfaces that ship under that name.
        """
        return self.name if self.registered is None else f"{self.registered}_measured"


class Backend(Protocol):
    """A device that operations can be timed on."""

    kind: Literal["cpu", "cuda"]
    torch: Any
    device: Any
    facts: DeviceFacts
    dtypes: tuple[Dtype, ...]
    evict_bytes: int
    flop_limit: float

    def time(self, work: Work, budget: TimeBudget) -> Sample:
        """Time an operation."""
        ...

    def free_bytes(self) -> int:
        """Bytes that operands may take."""
        ...

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Most bytes allocated during a call beyond those before; 0 where that is not known."""
        ...

    def state(self) -> str:
        """Clocks, power, temperature in words; "" where nobody tells."""
        ...

    def release(self) -> None:
        """Give memory of the last point back."""
        ...


def need_torch() -> Any:
    """Import torch.

    Raises
    ------
    InputError
        If it is not installed; names the extra.
    """
    try:
        import torch
    except ImportError:
        raise InputError(
            "measuring needs torch, which is not installed", hint="pip install 'hetplan[profile]'"
        ) from None
    return torch


def torch_dtype(torch: Any, dtype: str) -> Any:
    """Torch's name of a format."""
    return getattr(torch, _TORCH_NAMES[dtype])


def open_backend(device: str, *, quick: bool) -> Backend:
    """Open the device that ``--device`` names.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    quick
        Small sizes.

    Raises
    ------
    InputError
        If torch is missing, or there is no such device.
    """
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise InputError(f"unknown device {device!r}", where="--device", expected="cpu, cuda or cuda:N")
    torch = need_torch()
    if kind == "cpu":
        from planner.profiling.measure.cpu import CpuBackend

        return CpuBackend(torch, quick=quick)
    from planner.profiling.measure.cuda import CudaBackend

    number = int(index or 0)
    if not torch.cuda.is_available() or number >= torch.cuda.device_count():
        have = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise InputError(
            f"no GPU {number} that torch can use",
            where="--device",
            expected=f"one of {have} GPUs" if have else "a CUDA build of torch, a driver and a GPU",
            hint="nvidia-smi shows what the driver sees; --device cpu measures the host",
        )
    return CudaBackend(torch, number, quick=quick)
