"""What is built is what people get: one top-level name, the data inside, and it works from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = sorted(
    path
    for folder in ("profiles", "topologies")
    for path in (REPOSITORY / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command and give its output back; failing, it shows what it said."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def build(source: Path, output: Path, *what: str) -> None:
    run(sys.executable, "-m", "build", *what, "--no-isolation", "--outdir", output, source, cwd=output)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network."""
    output = tmp_path_factory.mktemp("wheel")
    build(REPOSITORY, output, "--wheel")
    (built,) = output.glob("*.whl")
    return built


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_one_top_level_name(wheel: Path) -> None:
    """Nothing but `planner` may appear among a user's modules."""
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not re.fullmatch(r"hetplan-[^/]+\.dist-info", top)} == {"planner"}


def test_everything_is_inside(wheel: Path) -> None:
    inside = names(wheel)
    assert "planner/py.typed" in inside
    data = {f"planner/_data/{path.relative_to(REPOSITORY).as_posix()}" for path in SHIPPED}
    assert len(data) > 80
    assert data - inside == set()
    modules = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "planner").rglob("*.py")}
    assert modules - inside == set()
    # And nothing that only lies around in a checkout.
    assert [
        name for name in inside if re.search(r"__pycache__|\.pyc$|^planner/_data/(?!profiles/|topologies/)", name)
    ] == []


def test_licence_and_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        for file in ("LICENSE", "NOTICE"):
            text = archive.read(f"{folder}/licenses/{file}").decode()
            assert text == (REPOSITORY / file).read_text(encoding="utf-8")
        assert "planner = planner.cli:app" in archive.read(f"{folder}/entry_points.txt").decode()
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
    assert (metadata["Name"], metadata["License-Expression"]) == ("hetplan", "Apache-2.0")
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {re.split(r"[<>=~! \[]", line)[0].lower() for line in required} >= {"numpy", "ortools", "pydantic"}
    assert "matplotlib" not in " ".join(required)


def test_it_works_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """Installed, it finds its own data, with no checkout in sight."""
    target = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
        "--target", target, wheel, cwd=tmp_path)  # fmt: skip
    code = (
        "import sys, planner, planner.resources\n"
        # An editable install puts the checkout on the path; it must not help.
        f"sys.path[:] = [entry for entry in sys.path if entry != {str(REPOSITORY)!r}]\n"
        "cluster = planner.load_cluster('a100-l40s-l4-24')\n"
        "model = planner.load_model('llama-3.1-70b')\n"
        "trace = planner.load_trace('azure-conv-2023')\n"
        "engine = planner.load_engine('vllm')\n"
        "print(planner.resources.resource_dir('profiles'))\n"
        "print(cluster.num_gpus, model.num_layers, len(trace.prompt_N), engine.name)\n"
    )
    folder, found = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target)).splitlines()
    assert Path(folder) == target / "planner" / "_data" / "profiles"
    assert found == "24 80 19366 vllm"


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build(REPOSITORY, tmp_path)  # a wheel from the sdist
    (rebuilt,) = tmp_path.glob("*.whl")
    assert names(rebuilt) == names(wheel)
