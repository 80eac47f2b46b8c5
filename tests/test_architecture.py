"""The house's rules that no linter knows: which room may import which, and what nothing in the package does."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "planner"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)

GROUND = frozenset({"errors", "units", "dtypes", "resources", "version"})
GIVEN = frozenset({"model", "cluster", "workload", "engine"})
UP_TO_COST = GROUND | GIVEN | {"plan", "cost"}
UP_TO_SEARCH = UP_TO_COST | {"partition", "solvers", "search"}

# Room -> the rooms it may import besides itself. A room that is not here has no place yet: give it one.
MAY_IMPORT: dict[str, frozenset[str]] = {
    **dict.fromkeys(sorted(GROUND), GROUND),
    **dict.fromkeys(sorted(GIVEN), GROUND),  # independent of each other
    "plan": GROUND | GIVEN,
    "cost": GROUND | GIVEN | {"plan"},
    "partition": GROUND,  # arrays only
    "solvers": GROUND,  # arrays only
    "search": UP_TO_SEARCH,
    "verifier": UP_TO_COST,  # shares the costs with the search, and nothing else
    "profiling": UP_TO_COST,  # predicts and measures; decides nothing
    "simulate": UP_TO_SEARCH,
    "export": UP_TO_SEARCH,
    "report": UP_TO_SEARCH | {"verifier", "profiling", "simulate", "export"},
    "api": UP_TO_SEARCH | {"verifier", "simulate", "export"},
    "planner": UP_TO_SEARCH | {"verifier", "simulate", "export", "api"},  # planner/__init__.py itself
    "cli": UP_TO_SEARCH | {"verifier", "profiling", "simulate", "export", "report", "api", "planner"},
    "__main__": frozenset({"cli"}),
}

# Slow to import: `planner --help` must not wait for them, nor a plan for a solver that it does not use.
LAZY = frozenset(
    {
        *("networkx", "ortools", "scipy", "pulp", "matplotlib", "simpy"),
        *("torch", "pynvml", "cryptography", "pandas", "pyarrow"),
    }
)
# Nothing here runs what it reads, and nothing talks to a network or starts another program.
FORBIDDEN_IMPORTS = frozenset(
    {
        "aiohttp",
        "cloudpickle",
        "dill",
        "ftplib",
        "http",
        "httpx",
        "joblib",
        "marshal",
        "pickle",
        "requests",
        "shelve",
        "socket",
        "subprocess",
        "urllib",
        "urllib3",
    }
)
FORBIDDEN_CALLS = frozenset({"eval", "exec", "compile", "__import__", "os.system", "os.popen"})
YAML_LOADERS = frozenset({"CSafeLoader", "SafeLoader"})
YAML_UNSAFE = frozenset(
    {"load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all", "Loader", "CLoader", "FullLoader"}
    | {"CFullLoader", "UnsafeLoader", "CUnsafeLoader"}
)
MOST_LINES = 500


def room_of(module: str) -> str:
    """First part of a module's name inside the package: ``planner.cost.device`` is in ``cost``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "planner"


def module_of(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name or attribute, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def imports(tree: ast.AST, package: Path = PACKAGE) -> list[tuple[int, str]]:
    """Line and name of every module that a tree imports, wherever the statement stands."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                found.append((node.lineno, "." * node.level + (node.module or "")))
            elif node.module == "planner":  # `from planner import cost` imports the room, not the package's names
                for alias in node.names:
                    inside = (package / alias.name).is_dir() or (package / f"{alias.name}.py").is_file()
                    found.append((node.lineno, f"planner.{alias.name}" if inside else "planner"))
            else:
                found.append((node.lineno, node.module or ""))
        elif isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] == "import_module" and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.append((node.lineno, name.value))
    return found


def upward_imports(path: Path, package: Path = PACKAGE) -> list[str]:
    """Imports of a file that its room may not have."""
    room = room_of(module_of(path, package))
    if room not in MAY_IMPORT:
        return [f"{path.name}: room {room!r} has no floor; add it to MAY_IMPORT"]
    problems = []
    for line, name in imports(ast.parse(path.read_text(encoding="utf-8")), package):
        if name.startswith("."):
            problems.append(f"{path.name}:{line}: relative import {name!r}")
        elif name == "planner" or name.startswith("planner."):
            target = room_of(name)
            if target != room and target not in MAY_IMPORT[room]:
                problems.append(f"{path.name}:{line}: {room} imports {target}")
    return problems


def forbidden(path: Path) -> list[str]:
    """Bare excepts, unsafe loaders, and modules and calls that have no place in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    problems = [
        f"{path.name}:{line}: imports {name}" for line, name in imports(tree) if name.split(".")[0] in FORBIDDEN_IMPORTS
    ]
    problems += [
        f"{path.name}:{line}: yaml.{name.removeprefix('yaml.')} is not safe"
        for line, name in _yaml_names(tree)
        if name in YAML_UNSAFE
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            problems.append(f"{path.name}:{node.lineno}: bare except")
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            if called in FORBIDDEN_CALLS:
                problems.append(f"{path.name}:{node.lineno}: calls {called}")
            elif called == "yaml.load" and not _loads_safely(node, tree):
                problems.append(f"{path.name}:{node.lineno}: yaml.load without a safe loader")
    return problems


def _yaml_names(tree: ast.AST) -> list[tuple[int, str]]:
    """What a tree takes from yaml: ``yaml.x``, and ``from yaml import x``, of which ``load`` would hide its module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node.value) == "yaml":
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom) and node.module == "yaml":
            found += [(node.lineno, "load_all" if alias.name == "load" else alias.name) for alias in node.names]
    return found


def _loads_safely(call: ast.Call, tree: ast.AST) -> bool:
    """Whether a ``yaml.load`` gets a safe loader, or a class of this file that derives from one."""
    loaders = [*call.args[1:], *(keyword.value for keyword in call.keywords if keyword.arg == "Loader")]
    safe = set(YAML_LOADERS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            named = [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)]
            named += [n.attr for n in ast.walk(node.value) if isinstance(n, ast.Attribute)]
            if any(name in YAML_LOADERS for name in named):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                safe |= {dotted(target) for target in targets}
        elif isinstance(node, ast.ClassDef):
            bases = [dotted(base).removeprefix("yaml.") for base in node.bases]
            if bases and all(base in safe for base in bases):
                safe.add(node.name)
    return len(loaders) == 1 and dotted(loaders[0]).removeprefix("yaml.") in safe


def eager_imports(path: Path) -> list[str]:
    """Slow libraries that a file imports outside functions and outside ``if TYPE_CHECKING``."""
    problems = []

    def visit(statements: list[ast.stmt]) -> None:
        for node in statements:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and dotted(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                visit(node.orelse)
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                problems.extend(
                    f"{path.name}:{line}: imports {name} at the top"
                    for line, name in imports(node)
                    if name.split(".")[0] in LAZY
                )
            for block in ("body", "orelse", "finalbody"):
                visit(getattr(node, block, []))
            for handler in getattr(node, "handlers", []):
                visit(handler.body)

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return problems


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_never_point_up(path: Path) -> None:
    assert upward_imports(path) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_forbidden(path: Path) -> None:
    assert forbidden(path) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_slow_libraries_wait_until_used(path: Path) -> None:
    assert eager_imports(path) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_names(path: Path) -> None:
    """``__all__`` names what a module offers: all of it exists, and nothing public is left out."""
    module = module_of(path)
    if any(part.startswith("_") for part in module.split(".")):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if all(isinstance(node, ast.Expr) for node in tree.body):  # a docstring alone offers nothing
        return
    names = importlib.import_module(module).__all__
    assert len(set(names)) == len(names)
    loaded = importlib.import_module(module)
    assert [name for name in names if not hasattr(loaded, name)] == []
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert [name for name in defined if not name.startswith("_") and name not in names] == []


def test_every_room_is_reached() -> None:
    """The walk sees the package: an empty list of files would pass every test above."""
    assert {room_of(module_of(path)) for path in FILES} >= GROUND | GIVEN | {"plan", "cost", "search", "partition"}


@pytest.mark.parametrize(
    ("room", "code", "problem"),
    [
        ("cost", "from planner.search import problem", "cost imports search"),
        ("cost", "def f():\n    import planner.cli", "cost imports cli"),
        ("cost", "if TYPE_CHECKING:\n    from planner.search.problem import Budget", "cost imports search"),
        ("cost", "from importlib import import_module\nimport_module('planner.report')", "cost imports report"),
        ("cost", "from planner import search", "cost imports search"),
        ("cost", "from planner import Plan", "cost imports planner"),
        ("model", "from planner.cluster import Cluster", "model imports cluster"),
        ("plan", "from planner.cost import memory", "plan imports cost"),
        ("partition", "from planner.model import ModelSpec", "partition imports model"),
        ("solvers", "from planner.partition import StageCosts", "solvers imports partition"),
        ("search", "from planner.verifier import verify", "search imports verifier"),
        ("search", "from planner.export import vllm", "search imports export"),
        ("verifier", "from planner.search.problem import Budget", "verifier imports search"),
        ("profiling", "from planner.search.problem import Budget", "profiling imports search"),
        ("api", "from planner.report import plots", "api imports report"),
        ("errors", "from planner.model import ModelSpec", "errors imports model"),
        ("cost", "from ..search import problem", "relative import '..search'"),
        ("attic", "import math", "room 'attic' has no floor; add it to MAY_IMPORT"),
    ],
)
def test_a_bad_import_is_seen(tmp_path: Path, room: str, code: str, problem: str) -> None:
    package = tmp_path / "planner"
    (package / room).mkdir(parents=True)
    (package / "search").mkdir(exist_ok=True)
    path = package / room / "bad.py"
    path.write_text(code + "\n", encoding="utf-8")
    (found,) = upward_imports(path, package)
    assert found.endswith(problem)
    path.write_text("import math\nfrom planner.errors import InputError\n", encoding="utf-8")
    assert room == "attic" or upward_imports(path, package) == []


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import pickle", "imports pickle"),
        ("def f():\n    from urllib.request import urlopen", "imports urllib.request"),
        ("import subprocess as s", "imports subprocess"),
        ("eval('1')", "calls eval"),
        ("import os\nos.system('ls')", "calls os.system"),
        ("try:\n    pass\nexcept:\n    pass", "bare except"),
        ("import yaml\nyaml.load(text, yaml.Loader)", "yaml.Loader is not safe"),
        ("import yaml\nyaml.load(text)", "yaml.load without a safe loader"),
        ("import yaml\nclass Mine(dict): ...\nyaml.load(text, Loader=Mine)", "yaml.load without a safe loader"),
        ("import yaml\nyaml.unsafe_load(text)", "yaml.unsafe_load is not safe"),
        ("from yaml import full_load", "yaml.full_load is not safe"),
    ],
)
def test_what_is_forbidden_is_seen(tmp_path: Path, code: str, problem: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(code + "\n", encoding="utf-8")
    assert any(found.endswith(problem) for found in forbidden(path)), forbidden(path)


def test_safe_loaders_pass(tmp_path: Path) -> None:
    path = tmp_path / "good.py"
    path.write_text(
        "import yaml\nbase = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)\nclass Mine(base): ...\n"
        "yaml.load(text, Loader=Mine)\nyaml.safe_load(text)\nyaml.load(text, yaml.SafeLoader)\n",
        encoding="utf-8",
    )
    assert forbidden(path) == []


def test_an_eager_import_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("try:\n    from scipy import optimize\nexcept ImportError:\n    import pulp\n", encoding="utf-8")
    assert len(eager_imports(path)) == 2
    path.write_text("def f():\n    import scipy\nif TYPE_CHECKING:\n    import networkx\n", encoding="utf-8")
    assert eager_imports(path) == []


def test_importing_the_package_loads_no_library() -> None:
    """The public names load on first use."""
    code = (
        "import sys, planner; print(*sorted({'numpy', 'pydantic', 'networkx', 'ortools', 'rich'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == ""
