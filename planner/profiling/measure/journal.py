"""What has been measured so far: one line a point, on disk before the next one starts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from planner.errors import InputError
from planner.profiling.measure.points import Point, Results

__all__ = ["Entry", "Journal"]

_FORM: Final = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A point that is done with.

    Parameters
    ----------
    point
        What was to be measured.
    results
        What came out; None where the device cannot run it.
    why
        Why not.
    """

    point: Point
    results: Results | None
    why: str = ""


class Journal:
    """Append-only file of finished points.

    Parameters
    ----------
    path
        The file; it need not exist.
    facts
        What all its points have in common: device, software, sizes. A journal of others is refused.
    restart
        Begin anew, whatever is there.

    Raises
    ------
    InputError
        If the file is of another device, software or setting, or is no journal; names what differs.
    """

    def __init__(self, path: Path, facts: Mapping[str, str], *, restart: bool = False) -> None:
        self.path, self.entries = path, dict[str, Entry]()
        self.cut_short = False
        if restart or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._start(facts)
        else:
            self._resume(facts)

    def _start(self, facts: Mapping[str, str]) -> None:
        try:
            self.path.write_text(json.dumps({"form": _FORM, **facts}) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=self.path) from None

    def _resume(self, facts: Mapping[str, str]) -> None:
        restart = "--restart measures anew, or -o names another folder"
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        try:
            head: dict[str, Any] = json.loads(lines[0]) if lines else {}
        except ValueError:
            head = {}
        if not isinstance(head, dict) or head.get("form") != _FORM:
            raise InputError("is no journal of measurements", where=self.path, hint=restart)
        for name, value in facts.items():
            if head.get(name) != value:
                raise InputError(
                    f"was measured with {name} {head.get(name)!r}, this run has {value!r}",
                    where=self.path,
                    expected="a journal of the same device, software and settings: figures of two are not mixed",
                    hint=restart,
                )
        whole = lines[0]
        for number, line in enumerate(lines[1:], start=2):
            entry = _entry(line) if line.endswith("\n") else None
            if entry is None:
                if number < len(lines):
                    raise InputError("is no measurement", where=f"{self.path}:{number}", hint=restart)
                self.cut_short = True  # interrupted while it was written: measured again
                break
            self.entries[entry.point.key] = entry
            whole += line
        if self.cut_short:
            self.path.write_text(whole, encoding="utf-8")

    def add(self, entry: Entry) -> None:
        """Keep a finished point: it is on disk when this returns."""
        point = entry.point
        data: dict[str, Any] = {"family": point.family, "table": point.table, "settings": dict(point.settings)}
        data |= {"results": dict(entry.results)} if entry.results is not None else {"why": entry.why}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries[point.key] = entry


def _entry(line: str) -> Entry | None:
    try:
        data = json.loads(line)
        point = Point(data["family"], data["table"], tuple(data["settings"].items()))
        if "results" in data:
            return Entry(point, {name: float(value) for name, value in data["results"].items()})
        return Entry(point, None, str(data["why"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
