"""Typed access to the fields of a ``config.json``: aliases, defaults, and errors that name file and field.

Model families call the same number by different names (``num_hidden_layers``, ``n_layer``, ``num_layers``)
and write ``null`` for "the default". A :class:`Config` resolves both and knows where it came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.errors import InputError

__all__ = ["Config", "parse_json"]


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Read a JSON object, or say at which line and column it breaks.

    Parameters
    ----------
    text
        The file's text.
    where
        The file, for the message.

    Raises
    ------
    InputError
        If it is not JSON, or JSON but not an object.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})",
            where=f"{where}:{error.lineno}:{error.colno}",
            expected="a Hugging Face config.json",
        ) from None
    except RecursionError:
        raise InputError("is nested too deeply", where=where, expected="a Hugging Face config.json") from None
    if not isinstance(value, dict):
        raise InputError(
            f"holds a {type(value).__name__}, not an object",
            where=where,
            expected="a Hugging Face config.json",
        )
    return value


@dataclass(frozen=True, slots=True)
class Config:
    """The fields of one configuration, or of one object inside it.

    Parameters
    ----------
    values
        The parsed JSON.
    where
        The file, for messages.
    prefix
        Path to this object inside the file, ending in a dot: ``"text_config."``.
    """

    values: Mapping[str, Any]
    where: str
    prefix: str = ""

    def error(self, field: str, what: str, expected: str | None = None, hint: str | None = None) -> InputError:
        """Make an error about one field of this object."""
        return InputError(what, where=self.where, field=self.prefix + field, expected=expected, hint=hint)

    def get(self, *names: str) -> tuple[str, Any]:
        """Find the first name that is there and not null, with its value; else the first name and None."""
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        return names[0], None

    def integer(self, *names: str, default: int | None = None, minimum: int = 1) -> int:
        """Read a whole number under its name or an alias.

        Parameters
        ----------
        names
            The name and its aliases, in order.
        default
            What absent or null means; None: it must be there.
        minimum
            The smallest value that makes sense.

        Raises
        ------
        InputError
            If it is missing without a default, not a whole number, or too small.
        """
        name, value = self.get(*names)
        expected = f"a whole number >= {minimum}"
        if value is None:
            if default is not None:
                return default
            also = f" (also read as {', '.join(names[1:])})" if len(names) > 1 else ""
            what = "is null" if name in self.values else "is missing"
            hint = "take the complete config.json of the checkpoint"
            raise self.error(name, what, expected + also, hint)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.error(name, f"is {value!r}", expected)
        return value

    def optional_integer(self, *names: str, minimum: int = 1) -> int | None:
        """Read a whole number that may be absent or null."""
        return None if self.get(*names)[1] is None else self.integer(*names, minimum=minimum)

    def flag(self, name: str, *, default: bool) -> bool:
        """Read a truth value that may be absent or null."""
        name, value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, f"is {value!r}", "true or false")
        return value

    def text(self, *names: str) -> str | None:
        """Read a text that may be absent or null."""
        name, value = self.get(*names)
        if value is not None and not isinstance(value, str):
            raise self.error(name, f"is {value!r}", "a text")
        return value

    def items(self, *names: str) -> list[Any]:
        """Read a list; absent or null means empty."""
        name, value = self.get(*names)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(name, f"is {value!r}", "a list")
        return value

    def section(self, name: str) -> Config | None:
        """Read an object inside this one, or None where it is absent or null."""
        _, value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, f"is {value!r}", "an object")
        return Config(value, self.where, f"{self.prefix}{name}.")
