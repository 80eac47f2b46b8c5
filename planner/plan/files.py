"""Plans on disk: read with a clear error, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pydantic import ValidationError

from planner.errors import InputError
from planner.plan.spec import Plan, parse_plan, plan_to_json
from planner.resources import read_text

__all__ = ["load_plan", "save_plan", "write_atomically"]


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a JSON file.

    Raises
    ------
    InputError
        If the file is missing, is not JSON, or is not a plan; names the field.
    """
    path = Path(path)
    text = read_text(path, "plan")
    try:
        return parse_plan(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            first["msg"],
            where=path,
            field=".".join(str(part) for part in first["loc"]) or None,
            expected="a plan as described by `planner schema plan`",
            hint="write it again with `planner serving` or `planner training`",
        ) from None


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan; an existing file is replaced only once the new one is complete."""
    write_atomically(Path(path), plan_to_json(plan))


def write_atomically(path: Path, text: str) -> None:
    """Write text to a file so that a failure leaves what was there.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written.
    """
    if path.is_dir():
        raise InputError("is a folder", where=path, expected="a file to write to")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}", where=path, hint="name a file in an existing, writable folder"
        ) from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot be written: {error.strerror}", where=path) from None
