"""Whatever ships from elsewhere is named in NOTICE."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("profiles", "topologies") for path in (REPOSITORY / folder).rglob("*.*"))
# Sources under a licence that asks to be named, as files cite them.
LICENSED = re.compile(r"Apache-2\.0|\bMIT\b|BSD-3-Clause|CC-BY")
PROJECTS = (
    "aiconfigurator-core",
    "Azure LLM inference trace 2023",
    "Calculon",
    "DistServe",
    "Helix",
    "HexGen",
    "Megatron-Bridge",
    "Megatron-Core",
    "Megatron-LM",
    "MuxServe",
    "Sailor",
    "SGLang",
    "TensorRT-LLM",
    "Vidur",
    "torchtitan",
    "vLLM",
)


def strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a file with the name of its field."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from strings(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, key)
    elif isinstance(value, str):
        yield key, value


def sources() -> list[tuple[str, str]]:
    """File and text of every citation under a licence."""
    found = []
    for path in FILES:
        if path.suffix not in (".yaml", ".json"):
            continue
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        for key, value in strings(content):
            if key in ("source", "note", "notes") and (LICENSED.search(value) or "aiconfigurator" in value):
                found.append((str(path.relative_to(REPOSITORY)), value))
    return found


def test_every_licensed_source_is_named() -> None:
    notice = (REPOSITORY / "NOTICE").read_text(encoding="utf-8")
    cited = sources()
    assert len(cited) > 30
    for file, text in cited:
        named = [project for project in PROJECTS if project in text]
        assert named, f"{file} cites a source that this test does not know: {text}"
        assert [project for project in named if project not in notice] == [], file


@pytest.mark.parametrize("folder", ["profiles", "topologies"])
def test_files_that_notice_names_exist(folder: str) -> None:
    notice = (REPOSITORY / "NOTICE").read_text(encoding="utf-8")
    patterns = re.findall(rf"{folder}/[\w./*-]+\w", notice)
    assert patterns
    for pattern in patterns:
        assert list(REPOSITORY.glob(pattern)), pattern


def test_licence_is_apache_2() -> None:
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
