"""The efficiency curves that ship are what the shipped measurements give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_efficiencies_follow_from_the_kernel_tables(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/derive_efficiency.py", "--output", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.yaml"))
    assert len(made) == 7
    for path in made:
        shipped = REPOSITORY / "profiles" / "devices" / path
        assert (tmp_path / path).read_text(encoding="utf-8") == shipped.read_text(encoding="utf-8"), path
