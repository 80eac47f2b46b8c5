"""Rate of large matrix products by GPU and format, from the kernel tables of aiconfigurator-core (needs pandas).

``python benchmarks/derive_large_gemms.py SYSTEMS`` reads ``SYSTEMS/data/*/gemm/*/*/*.parquet`` and writes
``profiles/measured/kernels/large_gemms.csv``. Training multiplies matrices of thousands in every direction, with the
vendor's best kernel: of every library in the tables the 90th percentile over shapes, of these the best.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from planner.plan.files import write_atomically
from planner.resources import resource_dir

SYSTEMS = {
    "a100_sxm": "a100_sxm_80",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "gb300": "gb300",
    "h100_sxm": "h100_sxm",
    "h200_sxm": "h200",
}
FORMATS = {"bfloat16": "bf16", "fp8": "fp8", "nvfp4": "nvfp4"}
LEAST_TOKENS, LEAST_WIDTH, QUANTILE = 8192, 4096, 0.9


def main(systems: Path) -> None:
    import pandas as pd

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["device", "dtype", "library", "shapes", "flop_per_s"])
    for system, device in SYSTEMS.items():
        best: dict[str, tuple[float, str, int]] = {}
        for path in sorted((systems / "data" / system / "gemm").glob("*/*/*.parquet")):
            table = pd.read_parquet(path)
            table = table[(table.m >= LEAST_TOKENS) & (table.n >= LEAST_WIDTH) & (table.k >= LEAST_WIDTH)]
            rate = 2.0 * table.m * table.n * table.k / (table.latency * 1e-3)
            for dtype, group in rate.groupby(table.gemm_dtype):
                if dtype in FORMATS:
                    one = float(group.quantile(QUANTILE)), f"{path.parts[-3]}-{path.parts[-2]}", len(group)
                    best[FORMATS[dtype]] = max(best.get(FORMATS[dtype], one), one)
        for dtype, (value, library, shapes) in sorted(best.items()):
            writer.writerow([device, dtype, library, shapes, f"{value:.4g}"])
    write_atomically(resource_dir("profiles") / "measured" / "kernels" / "large_gemms.csv", text.getvalue())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
