"""Files: where shipped data lives, in a wheel or a checkout, and how text and JSON are read with clear errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.errors import InputError

__all__ = ["mapping_at", "number_list", "read_json", "read_text", "resource_dir", "sha256_of"]

_PACKAGE = Path(__file__).resolve().parent


def resource_dir(kind: str) -> Path:
    """Folder of shipped data: ``"profiles"`` or ``"topologies"``.

    A wheel carries it under ``planner/_data``; in a checkout or an editable install it is the repository's own.

    Examples
    --------
    >>> (resource_dir("profiles") / "devices").is_dir()
    True
    """
    packaged = _PACKAGE / "_data" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent / kind


def read_text(path: Path, what: str) -> str:
    """Read a UTF-8 file, or say clearly why it cannot be read.

    Parameters
    ----------
    path
        The file.
    what
        What it should hold, for the message: ``"cluster"``.

    Raises
    ------
    InputError
        If it is missing, a folder, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "check the path" if path.is_absolute() else f"check the path, which is read from {Path.cwd()}"
        raise InputError("no such file", where=path, expected=f"a {what} file", hint=hint) from None
    except IsADirectoryError:
        raise InputError("is a folder", where=path, expected=f"a {what} file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text (byte {error.start})", where=path, expected=f"a {what} file") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=path, expected=f"a {what} file") from None


def read_json(path: Path, what: str) -> Any:
    """Read JSON that holds finite numbers.

    Raises
    ------
    InputError
        If it is missing, or no JSON: names line and column, and says so where the file may be cut short.
    """
    text = read_text(path, what)
    if not text.strip():
        raise InputError("is empty", where=path, expected=what)

    def constant(name: str) -> Any:
        raise InputError(f"holds {name}", where=path, expected="finite numbers")

    try:
        return json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or "Unterminated" in error.msg
        raise InputError(
            f"is not valid JSON: {error.msg} (column {error.colno})",
            where=f"{path}:{error.lineno}",
            expected=what,
            hint="the file may be cut short; copy it again" if cut else None,
        ) from None
    except RecursionError:
        raise InputError("is nested too deeply", where=path, expected=what) from None


def mapping_at(value: Any, where: str | Path, field: str, what: str) -> Mapping[str, Any]:
    """Take a JSON object.

    Raises
    ------
    InputError
        If it is something else, or empty; names the field.
    """
    if not isinstance(value, dict):
        raise InputError(f"holds a {type(value).__name__}", where=where, field=field or None, expected=what)
    if not value:
        raise InputError("is empty", where=where, field=field or None, expected=what)
    return value


def number_list(value: Any, where: str | Path, field: str, what: str, length: int | None = None) -> list[float]:
    """Take a JSON list of numbers.

    Raises
    ------
    InputError
        If it is something else, or of another length; names the field.
    """
    fits = isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    if not fits or (length is not None and len(value) != length):
        raise InputError(f"found {json.dumps(value)[:60]}", where=where, field=field, expected=what)
    return [float(v) for v in value]


def sha256_of(text: str) -> str:
    """Hash of an input's text, so that a plan can say exactly what it was made from."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
