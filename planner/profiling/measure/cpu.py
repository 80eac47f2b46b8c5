"""The host's processor as a device."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from planner.cluster.loading import slug
from planner.dtypes import Dtype
from planner.profiling.measure.backend import DeviceFacts, Work
from planner.profiling.measure.timing import Sample, TimeBudget, sampled

__all__ = ["CpuBackend", "core_count"]

_MIB: Final = 2**20
_VENDORS: Final = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "ARM": "Arm"}


def core_count() -> int:
    """Cores that this process may use; ``OMP_NUM_THREADS`` may say fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(told))) if told.isdigit() else cores


class CpuBackend:
    """Times operations with the wall clock, on all cores that this process may use.

    Parameters
    ----------
    torch
        The module.
    quick
        Small sizes, and operands that need not outgrow the last-level cache.
    """

    kind: Literal["cpu", "cuda"] = "cpu"

    def __init__(self, torch: Any, *, quick: bool) -> None:
        self.torch, self.device = torch, torch.device("cpu")
        self.dtypes: tuple[Dtype, ...] = ("bf16", "fp32")  # fp16 has no units of its own on most processors
        cores = core_count()
        torch.set_num_threads(cores)
        cache = _last_level_cache()
        self.evict_bytes = min(cache, 16 * _MIB) if quick else min(2 * cache, 1024 * _MIB)
        self.flop_limit = 4e9 if quick else 4e11
        title, vendor = _processor()
        short = re.sub(r"\((R|TM|tm)\)|CPU|@.*", " ", title)
        software = f"torch {torch.__version__}, {cores} threads, {platform.system()} {platform.machine()}"
        self.facts = DeviceFacts(slug(short) or "cpu", title, vendor, _memory(), cores, software)

    def time(self, work: Work, budget: TimeBudget) -> Sample:
        """Time with the wall clock; operands are taken in turns."""
        at = 0

        def reading(inner: int) -> float:
            nonlocal at
            start = time.perf_counter()
            for _ in range(inner):
                work.run(at)
                at = (at + 1) % work.sets
            return (time.perf_counter() - start) / inner

        return sampled(reading, budget)

    def free_bytes(self) -> int:
        """Return half of what the operating system says is available."""
        try:
            text = Path("/proc/meminfo").read_text(encoding="ascii")
            return int(text.partition("MemAvailable:")[2].split()[0]) * 1024 // 2
        except (OSError, IndexError, ValueError):
            return self.facts.memory // 4

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Run it; torch does not count the bytes of the host."""
        run()
        return 0

    def state(self) -> str:
        """Clock of the first core, and load."""
        load = f"load average {os.getloadavg()[0]:.2f} on {core_count()} cores" if hasattr(os, "getloadavg") else ""
        try:
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
            clock = text.partition("cpu MHz")[2].partition(":")[2].split()[0]
        except (OSError, IndexError):
            return load
        return f"{float(clock):.0f} MHz, {load}"

    def release(self) -> None:
        """Nothing to do: the allocator of the host gives back by itself."""


def _processor() -> tuple[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    facts: dict[str, str] = {}
    for line in text.split("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    title = facts.get("model name") or platform.processor() or platform.machine()
    vendor = facts.get("vendor_id", "")
    return title, _VENDORS.get(vendor, vendor or "unknown")


def _memory() -> int:
    """Bytes of memory; the cgroup's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return min(total, int(limit))
    except (OSError, ValueError):
        return total


def _last_level_cache() -> int:
    """Bytes of the largest cache that the first core sees; 32 MiB where the system does not tell."""
    units = {"K": 1024, "M": _MIB, "G": 1024 * _MIB}
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text[:-1].isdigit() and text[-1] in units:
            sizes.append(int(text[:-1]) * units[text[-1]])
    return max(sizes, default=32 * _MIB)
