"""Turn tables of measured kernel efficiencies into the YAML files of ``profiles/devices/``.

    python benchmarks/derive_efficiency.py [FOLDER] [--output profiles/devices]

FOLDER, by default ``profiles/measured/kernels``, holds four CSV files, medians over shapes of the kernel tables of
aiconfigurator-core 0.12.0:

``gemm_curve_by_m.csv``
    system, backend, gemm_dtype, m, eff_med, eff_p90: roofline time over measured time, shapes with
    n, k >= 1024.
``context_attention_mfu_by_isl.csv``
    system, backend, isl, mfu_med, mfu_p90: share of the peak, causal FLOPs.
``decode_attention_mbu_by_kvbytes.csv``
    system, backend, kvMB (MiB of KV cache read), mbu_med, mbu_p10, mbu_p90.
``seeds.csv``
    system, backend, decode_attn_floor_us, and for n = 2, 4, 8 GPUs cust_ar{n}_16KB_us, _1MB_us, _1GB_busbw.

Written are ``_efficiency/DEVICE.yaml`` for each GPU measured, and ``_default_efficiency.yaml``: the median
over those GPUs, whose error is what it would have been for each of them, had that one not been measured.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import numpy as np

DEVICES = {  # system in the tables -> device profile, and the backend to read
    "a100_sxm": ("a100_sxm_80", "vllm-0.14.0"),
    "b200_sxm": ("b200", "vllm-0.24.0"),
    "h100_sxm": ("h100_sxm", "vllm-0.24.0"),
    "h200_sxm": ("h200", "vllm-0.24.0"),
    "l40s": ("l40s", "vllm-0.24.0"),
    "rtx_pro_6000_server": ("rtx_pro_6000", "vllm-0.24.0"),
}
DTYPES = {"bfloat16": "bf16", "fp8": "fp8", "nvfp4": "nvfp4"}
M_GRID = [1, 4, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
ISL_GRID = [16, 32, 64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 10240, 12288, 16384]
KV_GRID_MIB = [0.125 * 2**i for i in range(16)]
MIB = 2**20
SOURCE = (
    "aiconfigurator-core 0.12.0 kernel tables ({backend}), Apache-2.0; GEMM 90th percentile over shapes,"
    " attention medians"
)
DATE = "2026-11"
# All-reduce of this GPU over PCIe differs tenfold between collections: 1.4 to 20.7 GB/s for 8 GPUs, 128 MB.
DOUBTFUL_ALL_REDUCE = {"l40s": (0.9, "collections differ tenfold")}

Points = dict[float, tuple[float, float]]  # x -> value, relative spread over shapes


def read(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def gemm_points(rows: list[dict[str, str]], system: str, backend: str) -> dict[str, Points]:
    out: dict[str, Points] = {}
    for row in rows:
        if (row["system"], row["backend"]) == (system, backend) and row["gemm_dtype"] in DTYPES:
            # The layers of a large model are large matrices, which the 90th percentile over shapes stands for; small
            # ones lose to the start of the kernel, which the cost model adds by itself (gemm_floor).
            value = float(row["eff_p90"])
            spread = (value - float(row["eff_med"])) / 2 / value
            out.setdefault(DTYPES[row["gemm_dtype"]], {})[float(row["m"])] = (min(value, 1.0), spread)
    return out


def prefill_points(rows: list[dict[str, str]], system: str, backend: str) -> Points:
    return {
        float(row["isl"]): (float(row["mfu_med"]), float(row["mfu_p90"]) / float(row["mfu_med"]) - 1)
        for row in rows
        if (row["system"], row["backend"]) == (system, backend) and float(row["mfu_med"]) > 0
    }


def decode_points(rows: list[dict[str, str]], system: str, backend: str) -> Points:
    out: Points = {}
    for row in rows:
        value = float(row["mbu_med"])
        if (row["system"], row["backend"]) == (system, backend) and value > 0:
            spread = (float(row["mbu_p90"]) - float(row["mbu_p10"])) / 2 / value
            # More than 1 means that the cache of the chip held the data; a running engine evicts it.
            out[float(row["kvMB"]) * MIB] = (min(value, 1.0), spread)
    return out


def thinned(points: Points, grid: list[float]) -> Points:
    return {x: points[x] for x in grid if x in points}


def at(points: Points, x: float) -> float:
    """Value at x, log-interpolated, held constant beyond both ends."""
    known = sorted(points)
    return float(np.exp(np.interp(np.log(x), np.log(known), np.log([points[k][0] for k in known]))))


def left_out_error(all_points: dict[str, Points], grid: list[float]) -> float:
    """Mean relative error in time for a GPU that is predicted by the median of the others."""
    errors = []
    for name, points in all_points.items():
        others = [theirs for other, theirs in all_points.items() if other != name]
        for x in grid:
            errors.append(abs(at(points, x) / median(at(theirs, x) for theirs in others) - 1))
    return fmean(errors)


class AllReduceFit(NamedTuple):
    """An all-reduce among some GPUs, in seconds and bytes/s."""

    latency: float
    bandwidth: float
    error: float
    seconds: list[float]


def all_reduce(row: dict[str, str], number: int) -> AllReduceFit:
    """Latency and bus bandwidth that give back both the 16 KiB and the 1 GiB figure."""
    factor = 2 * (number - 1) / number
    small, middle = (
        float(row[f"cust_ar{number}_16KB_us"]) * 1e-6,
        float(row[f"cust_ar{number}_1MB_us"]) * 1e-6,
    )
    large = factor * 2**30 / (float(row[f"cust_ar{number}_1GB_busbw"]) * 1e9)
    per_byte = (large - small) / (2**30 - 2**14)
    latency = small - per_byte * 2**14
    missed = abs((latency + per_byte * MIB) / middle - 1)
    return AllReduceFit(latency, factor / per_byte, missed, [small, middle, large])


def number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}"


def curve_lines(indent: str, name: str, points: Points, error: float, basis: str) -> list[str]:
    xs, ys = ", ".join(number(x) for x in points), ", ".join(number(y) for y, _ in points.values())
    return [
        f"{indent}{name}:",
        f"{indent}  x: [{xs}]",
        f"{indent}  y: [{ys}]",
        f"{indent}  error: {error:.2f}",
        f"{indent}  error_basis: {basis}",
    ]


def device_lines(name: str, system: str, backend: str, tables: dict[str, list[dict[str, str]]]) -> list[str]:
    row = next(r for r in tables["seeds"] if (r["system"], r["backend"]) == (system, backend))
    lines = [
        "# Written by benchmarks/derive_efficiency.py; the numbers are measurements, do not edit them here.",
        "kind: measured",
        f"source: {SOURCE.format(backend=backend)}",
        f'date: "{DATE}"',
        "gemm:  # x: tokens m; y: roofline time over measured time, 90th percentile of shapes with n, k >= 1024",
    ]
    for dtype, points in gemm_points(tables["gemm"], system, backend).items():
        kept = thinned(points, [float(m) for m in M_GRID])
        basis = "half of (p90 - median) over p90, over shapes, mean over m"
        lines += curve_lines("  ", dtype, kept, fmean(s for _, s in kept.values()), basis)
    prefill = thinned(prefill_points(tables["prefill"], system, backend), [float(x) for x in ISL_GRID])
    lines.append("# x: prompt tokens; y: share of the bf16 peak, causal FLOPs")
    spread = fmean(s for x, (_, s) in prefill.items() if x >= 512)
    lines += curve_lines(
        "", "prefill_attention", prefill, spread, "p90 over median - 1, over shapes, mean from 512 tokens on"
    )
    decode = thinned(decode_points(tables["decode"], system, backend), [x * MIB for x in KV_GRID_MIB])
    lines.append("# x: bytes of KV cache read; y: share of the memory bandwidth, at most 1")
    spread = fmean(s for x, (_, s) in decode.items() if x >= 128 * MIB)
    basis = "half of (p90 - p10) over the median, over shapes, mean from 128 MiB on"
    lines += curve_lines("", "decode_attention", decode, spread, basis)
    lines.append(f"decode_attention_floor: {float(row['decode_attn_floor_us']):g} us")
    lines += ESTIMATES
    lines.append("# From 16 KiB and 1 GiB; error: how far these two numbers miss the measured 1 MiB (see seconds).")
    if system in DOUBTFUL_ALL_REDUCE:
        lines.append("# The fastest of the collections, which differ tenfold with the host's PCIe: measure your own.")
    lines.append("all_reduce:")
    for gpus in (2, 4, 8):
        fit = all_reduce(row, gpus)
        doubt, basis = DOUBTFUL_ALL_REDUCE.get(system, (0.1, "judgement; one collection"))
        error = max(fit.error, doubt)
        seconds = ", ".join(number(t) for t in fit.seconds)
        lines += [
            f"  {gpus}:",
            f"    latency: {{value: {fit.latency * 1e6:.3f} us, error: {error:.2f}}}",
            f"    bandwidth: {{value: {fit.bandwidth / 1e9:.2f} GB/s, error: {error:.2f}}}",
            "    seconds:",
            f"      x: [16384, {MIB}, {2**30}]",
            f"      y: [{seconds}]",
            f"      error: {doubt:.2f}",
            f"      error_basis: {basis}",
        ]
    return lines


ESTIMATES = [
    "gemm_floor:",
    "  value: 2 us",
    "  kind: estimated",
    "  source: assumed start of a kernel inside a CUDA graph; not measured",
    f'  date: "{DATE}"',
    "  error: 0.5",
    "elementwise:",
    "  value: 0.7",
    "  kind: estimated",
    "  source: assumed share of the peak bandwidth in streaming kernels; not measured",
    f'  date: "{DATE}"',
    "  error: 0.2",
]


def default_lines(tables: dict[str, list[dict[str, str]]]) -> list[str]:
    names = ", ".join(device for device, _ in DEVICES.values())
    basis = "each measured GPU against the median of the others; mean relative error in time"
    lines = [
        "# Written by benchmarks/derive_efficiency.py. For every GPU without efficiencies of its own.",
        "kind: estimated",
        f"source: median over {names}; {SOURCE.format(backend='vllm')}",
        f'date: "{DATE}"',
        "gemm:",
    ]
    by_dtype: dict[str, dict[str, Points]] = {}
    prefill: dict[str, Points] = {}
    decode: dict[str, Points] = {}
    floors = {}
    for system, (device, backend) in DEVICES.items():
        for dtype, points in gemm_points(tables["gemm"], system, backend).items():
            by_dtype.setdefault(dtype, {})[device] = points
        prefill[device] = prefill_points(tables["prefill"], system, backend)
        decode[device] = decode_points(tables["decode"], system, backend)
        row = next(r for r in tables["seeds"] if (r["system"], r["backend"]) == (system, backend))
        floors[device] = float(row["decode_attn_floor_us"])

    def middle(group: dict[str, Points], grid: list[float]) -> Points:
        return {x: (median(at(points, x) for points in group.values()), 0.0) for x in grid}

    m_grid = [float(m) for m in M_GRID]
    for dtype, group in by_dtype.items():
        lines += curve_lines("  ", dtype, middle(group, m_grid), left_out_error(group, m_grid), basis)
    isl, kv = [float(x) for x in ISL_GRID], [x * MIB for x in KV_GRID_MIB]
    error = left_out_error(prefill, [x for x in isl if x >= 128])
    lines += curve_lines("", "prefill_attention", middle(prefill, isl), error, basis + ", from 128 tokens on")
    error = left_out_error(decode, [x for x in kv if x >= 8 * MIB])
    lines += curve_lines("", "decode_attention", middle(decode, kv), error, basis + ", from 8 MiB on")
    errors = []
    for device, floor in floors.items():
        others = median(value for other, value in floors.items() if other != device)
        errors.append(abs(others / floor - 1))
    lines.append(f"decode_attention_floor: {{value: {median(floors.values()):g} us, error: {fmean(errors):.2f}}}")
    return lines + ESTIMATES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("profiles/measured/kernels"))
    parser.add_argument("--output", type=Path, default=Path("profiles/devices"))
    options = parser.parse_args()
    tables = {
        "gemm": read(options.folder, "gemm_curve_by_m.csv"),
        "prefill": read(options.folder, "context_attention_mfu_by_isl.csv"),
        "decode": read(options.folder, "decode_attention_mbu_by_kvbytes.csv"),
        "seeds": read(options.folder, "seeds.csv"),
    }
    (options.output / "_efficiency").mkdir(parents=True, exist_ok=True)
    for system, (device, backend) in DEVICES.items():
        path = options.output / "_efficiency" / f"{device}.yaml"
        path.write_text("\n".join(device_lines(device, system, backend, tables)) + "\n", encoding="utf-8")
        print(path)
    path = options.output / "_default_efficiency.yaml"
    path.write_text("\n".join(default_lines(tables)) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
