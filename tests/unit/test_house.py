"""The house: imports go one way, pure code is pure, and the keeper is small (design, section 3)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = Path(__file__).with_name("importlinter.ini")
PACKAGES = ("orchestrator", "probes", "strategies")
PURE = ("orchestrator/domain", "orchestrator/engine", "strategies")
PURE_LIBRARY = {"__future__", "collections", "dataclasses", "enum", "functools", "itertools", "math", "types", "typing"}
"""What pure code may take from the standard library: nothing in it looks at the world."""


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert found
    return found


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports by full names only"
            names.add(node.module or "")
    return names


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def test_the_contracts_of_the_house_are_kept():
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--config", str(CONTRACTS), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", PURE)
def test_pure_code_imports_nothing_but_itself_and_pure_parts_of_the_library(folder: str):
    for path in sources(folder):
        assert roots(path) <= {*PURE_LIBRARY, *PACKAGES}, path


@pytest.mark.parametrize("folder", PURE)
def test_pure_code_opens_prints_and_asks_for_nothing(folder: str):
    impure = {"open", "print", "input", "eval", "exec", "globals", "__import__"}
    for path in sources(folder):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not {node.func.id for node in calls if isinstance(node.func, ast.Name)} & impure, path


def test_every_dataclass_of_the_domain_is_frozen():
    for path in sources("orchestrator/domain"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Name) and decorator.id == "dataclass":
                    pytest.fail(f"{path}: {node.name} is not frozen")
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "dataclass":
                    frozen = {word.arg: getattr(word.value, "value", None) for word in decorator.keywords}.get("frozen")
                    assert frozen is True, f"{path}: {node.name} is not frozen"


def test_only_one_file_imports_kazoo():
    users = [path for path in sources(*PACKAGES) if "kazoo" in roots(path)]
    assert [path.relative_to(ROOT).as_posix() for path in users] == ["orchestrator/coordination/zookeeper.py"]


def test_nothing_below_the_configuration_imports_pydantic():
    users = {path.relative_to(ROOT).parts[1] for path in sources(*PACKAGES) if {"pydantic", "pydantic_core"} & roots(path)}
    assert users <= {"config", "api"}


def test_the_keepers_sources_import_the_standard_library_and_this_project_only():
    for path in sources("orchestrator/keeper", "probes/interconnected"):
        assert roots(path) <= {*sys.stdlib_module_names, *PACKAGES}, path


LOADED = """
import sys
import orchestrator.keeper.process
foreign = sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"__main__"})
print("\\n".join(foreign))
print("--")
print("\\n".join(sorted(name for name in sys.modules if name.startswith(("orchestrator", "probes", "strategies")))))
"""


@pytest.fixture(scope="module")
def loaded() -> tuple[set[str], set[str]]:
    """What a keeper's process has loaded: foreign packages, and modules of this project."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{LOADED}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    foreign, _, own = done.stdout.partition("--\n")
    return set(foreign.split()), set(own.split())


def test_a_keeper_loads_the_standard_library_and_this_project_only(loaded: tuple[set[str], set[str]]):
    foreign, _ = loaded
    assert foreign <= set(PACKAGES)


def test_a_keeper_loads_neither_engine_nor_daemon(loaded: tuple[set[str], set[str]]):
    _, own = loaded
    allowed = ("orchestrator.domain", "orchestrator.keeper", "probes.interconnected")
    assert [name for name in own if name not in ("orchestrator", "probes") and not name.startswith(allowed)] == []


def test_a_keeper_needs_no_asyncio(loaded: tuple[set[str], set[str]]):
    for path in sources("orchestrator/keeper", "probes/interconnected"):
        assert "asyncio" not in roots(path)
