"""The library's import rule: lower packages know nothing of higher ones, nothing runs in a cycle, and what Slicer
packages needs nothing of what stays in the repository."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "USMRISynthesis" / "USMRISynthesisLib"
ROOT = "USMRISynthesisLib"
# Packages of one row may not know each other, except as they stand from left to right.
INFERENCE = (
    ("errors", "callbacks"),
    ("geometry", "io"),
    ("models", "ultrasound"),
    ("alignment",),
    ("synthesis", "spacing"),
    ("worker", "batch", "live"),
    ("cli",),
)
DEVELOPMENT = (("simulation",), ("datasets",), ("evaluation",), ("training",))
# The command line offers the commands of development too, and loads them when they are called.
ENTRY = "cli"
FORBIDDEN = ("slicer", "qt", "ctk", "vtk", "USMRISynthesisScene")


def _module_name(path: Path) -> str:
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(path): path for path in sorted(LIBRARY.rglob("*.py"))}


def _imports(name: str, *, at_load_only: bool = False) -> set[str]:
    """Modules of the library, and top-level names of others, that a module imports (type checking left out)."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if at_load_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            base = node.module or ""
            for alias in node.names:
                inside = f"{base}.{alias.name}".removeprefix(ROOT + ".")
                found.add(f"{base}.{alias.name}" if inside in MODULES else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def _ours(name: str, **options: bool) -> set[str]:
    return {
        one.removeprefix(ROOT).removeprefix(".")
        for one in _imports(name, **options)
        if one == ROOT or one.startswith(ROOT + ".")
    }


def _row(package: str, rows: tuple[tuple[str, ...], ...]) -> int:
    return next(number for number, row in enumerate(rows) if package in row)


def _allowed(importer: str, imported: str) -> bool:
    """Whether a module of one top-level package may import one of another."""
    if importer == imported or imported == "":
        return True
    inference, development = [p for row in INFERENCE for p in row], [p for row in DEVELOPMENT for p in row]
    if importer in inference and imported in inference:
        return _row(imported, INFERENCE) <= _row(importer, INFERENCE)
    if importer in development and imported in development:
        return _row(imported, DEVELOPMENT) < _row(importer, DEVELOPMENT)
    if importer in development:
        return imported != ENTRY
    return importer == ENTRY


def test_every_package_has_its_place_in_the_rule() -> None:
    known = {package for row in INFERENCE + DEVELOPMENT for package in row}
    assert {name.split(".")[0] for name in MODULES if name} <= known


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_module_imports_nothing_above_it(name: str) -> None:
    package = name.split(".")[0]
    wrong = [one for one in sorted(_ours(name)) if not _allowed(package, one.split(".")[0])]
    assert not wrong, f"{name} imports {', '.join(wrong)}"


def test_the_library_never_imports_slicer() -> None:
    assert [(name, one) for name in MODULES for one in _imports(name) if one.split(".")[0] in FORBIDDEN] == []


def test_only_entry_points_load_development_and_only_when_called() -> None:
    development = {package for row in DEVELOPMENT for package in row}
    assert [
        (name, one)
        for name in MODULES
        if name.split(".")[0] == ENTRY
        for one in _ours(name, at_load_only=True)
        if one.split(".")[0] in development
    ] == []


@pytest.mark.parametrize("depth", [1, None], ids=["packages", "modules"])
def test_imports_make_no_cycle(depth: int | None) -> None:
    """Neither among top-level packages nor among single modules."""

    def node(name: str) -> str:
        return ".".join(name.split(".")[:depth])

    edges: dict[str, set[str]] = {}
    for name in MODULES:
        if name:
            edges.setdefault(node(name), set()).update(node(one) for one in _ours(name) if one)
    state: dict[str, int] = {}

    def visit(one: str, path: tuple[str, ...]) -> None:
        if state.get(one) == 2:
            return
        assert state.get(one) != 1, " -> ".join((*path[path.index(one) :], one))
        state[one] = 1
        for other in sorted(edges.get(one, set()) - {one}):
            visit(other, (*path, one))
        state[one] = 2

    for one in sorted(edges):
        visit(one, ())
