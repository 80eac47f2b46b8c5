"""Where shipped data lives: inside an installed wheel, or at the top of a checkout."""

from __future__ import annotations

import hashlib
from pathlib import Path

from planner.errors import InputError

__all__ = ["read_text", "resource_dir", "sha256_of"]

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


def sha256_of(text: str) -> str:
    """Hash of an input's text, so that a plan can say exactly what it was made from."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
