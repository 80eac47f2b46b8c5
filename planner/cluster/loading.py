"""Reading YAML that people wrote: every mistake becomes an `InputError` with file, field and expectation."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from planner.errors import InputError, unknown_name
from planner.resources import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

__all__ = ["UNION_MARK", "find_file", "not_as_expected", "read_yaml", "slug", "validated"]

ModelT = TypeVar("ModelT", bound=BaseModel)

UNION_MARK = "#"
"""Tags of pydantic unions start with it, so that they can be left out of the field's dotted name."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it is built in: 10 times faster


class _StrictLoader(_Base):  # type: ignore[misc]
    """Safe YAML in which a key given twice is an error instead of a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            # Keys of a merge (<<) may be overridden on purpose; those written out here may not repeat.
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def slug(text: str) -> str:
    """Bring a name to the form that file names have: lower case, words joined by ``_``.

    Examples
    --------
    >>> slug("NVIDIA H100 80GB HBM3")
    'nvidia_h100_80gb_hbm3'
    """
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def read_yaml(path: Path, what: str) -> tuple[dict[str, Any], str]:
    """Read one YAML mapping.

    Parameters
    ----------
    path
        The file.
    what
        What it should hold, for the messages: ``"cluster"``.

    Returns
    -------
    tuple
        The mapping, and the text it was read from.

    Raises
    ------
    InputError
        If it is missing, no YAML (with line and column), repeats a key, or is not a mapping.
    """
    text = read_text(path, what)
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark is not None else path
        raise InputError(
            f"is not valid YAML: {error.problem or error.context}",
            where=place,
            expected=f"a {what} file in YAML",
            hint="check indentation, colons and brackets just before that place",
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"is not valid YAML: {error}", where=path, expected=f"a {what} file in YAML") from None
    except ValueError as error:  # a scalar that looks like a date but is none: 2024-13-45
        raise InputError(f"holds a value that cannot be read: {error}", where=path) from None
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"holds a {type(data).__name__}"
        raise InputError(found, where=path, expected=f"a {what}: a mapping of fields to values")
    return data, text


def find_file(name_or_path: str | Path, known: Mapping[str, Path], what: str) -> Path:
    """Tell a shipped name from a path.

    A `Path`, text with a folder separator, text that ends in ``.yaml`` or ``.yml``, and the name of an
    existing file are paths; anything else is a name.

    Parameters
    ----------
    name_or_path
        What the user gave.
    known
        Shipped names and their files.
    what
        What it names, for the message.

    Raises
    ------
    InputError
        If it is a name that is not shipped.
    """
    if isinstance(name_or_path, Path):
        return name_or_path
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if len(path.parts) > 1 or path.suffix in {".yaml", ".yml"} or path.is_file():
        return path
    raise unknown_name(what, name_or_path, known)


def not_as_expected(what: str, *, expected: str | None = None, hint: str | None = None) -> PydanticCustomError:
    """Build what a pydantic validator raises when it has more to say than one sentence.

    `validated` turns it into an `InputError` with the same parts.
    """
    # The text goes in as context, never as template: user data may hold braces.
    return PydanticCustomError("planner", "{what}", {"what": what, "expected": expected, "hint": hint})


def validated(model: type[ModelT], data: object, where: Path | str) -> ModelT:
    """Validate data against a model, naming file and field where it fails.

    Parameters
    ----------
    model
        The pydantic model.
    data
        What the file held.
    where
        The file, for the message.

    Raises
    ------
    InputError
        For the first field that is wrong; the message says how many more there are.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise _input_error(_most_telling(details), len(details) - 1, model, where) from None


def _most_telling(details: list[ErrorDetails]) -> ErrorDetails:
    """The first error; but where a field is missing and an unknown one stands there, that is a misspelling."""
    first = details[0]
    if first["type"] == "missing":
        for other in details[1:]:
            if other["type"] == "extra_forbidden" and other["loc"][:-1] == first["loc"][:-1]:
                return other
    return first


def _input_error(detail: ErrorDetails, more: int, model: type[BaseModel], where: Path | str) -> InputError:
    # "[key]" is how pydantic marks that the key of a mapping is wrong, not its value.
    parts = [str(part) for part in detail["loc"] if not str(part).startswith(UNION_MARK) and part != "[key]"]
    context = detail.get("ctx", {})
    found, expected, hint = detail["msg"], context.get("expected"), context.get("hint")
    if detail["type"] == "missing":
        found, expected = "is missing", "this field is required"
    elif detail["type"] == "extra_forbidden":
        names = _fields_at(model, detail["loc"][:-1])
        close = get_close_matches(parts[-1], names, n=1, cutoff=0.5)
        found, expected = "is not a known field", f"one of {', '.join(names)}" if names else None
        hint = close[0] if close else "remove it"
    elif detail["type"] == "value_error":
        found = str(context.get("error", detail["msg"]))
    elif detail["type"] != "planner":
        found, expected = (
            f"{_short(detail['input'])} is not allowed",
            detail["msg"][:1].lower() + detail["msg"][1:],
        )
    if more:
        note = f"{more} more field{'s are' if more > 1 else ' is'} wrong in this file"
        hint = f"{hint}; {note}" if hint else note
    return InputError(found, where=where, field=".".join(parts) or None, expected=expected, hint=hint)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that would have been accepted at a place in a nested model."""
    kind: Any = model
    for part in loc:
        if isinstance(part, int) or part.startswith(UNION_MARK):
            continue
        fields = getattr(kind, "model_fields", {})
        if part not in fields:
            return []
        kind = _model_in(fields[part].annotation)
    return sorted(getattr(kind, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """Find the pydantic model inside ``list[Model]``, ``Model | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
