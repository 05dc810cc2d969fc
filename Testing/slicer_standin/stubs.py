"""Type stubs of Slicer for mypy, from the lists of its Python API and the classes of the slicer-core wheel.

    python Testing/slicer_standin/stubs.py build/typings

Names are checked and values are not: every method takes and returns anything, a name that Slicer does not have is an
error. Qt's own classes are not in the lists and are left open.
"""

from __future__ import annotations

import gzip
import inspect
import json
import keyword
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HEADER = "from typing import Any\n\n"
# What slicer's start puts into the package beside its classes.
VALUES = {
    "app": "qSlicerApplication",
    "mrmlScene": "vtkMRMLScene",
    "modules": "Any",
    "selfTests": "dict[str, Any]",
    "dicomDatabase": "Any",
}
# Python modules of Slicer that are packages or that are imported by their own name.
TOP_LEVEL = {"sitkUtils": "sitkUtils", "SampleData.SampleData": "SampleData", "DICOMLib.DICOMPlugin": "DICOMLib"}


def write_stubs(folder: Path) -> None:
    """Write the packages `slicer`, `qt` and `ctk`, and the modules of TOP_LEVEL, as stubs."""
    qt_classes, python = _read("qt-classes.json.gz")["classes"], _read("python-api.json.gz")["python"]
    package = folder / "slicer"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.pyi").write_text("".join(_slicer(qt_classes)), encoding="utf-8")
    for name, content in python.items():
        if name.startswith("slicer."):
            parts = name.split(".")[1:]
            nested = any(other.startswith(name + ".") for other in python)
            path = package.joinpath(*parts) / "__init__.pyi" if nested else package.joinpath(*parts).with_suffix(".pyi")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_module(content), encoding="utf-8")
        elif name in TOP_LEVEL:
            (folder / f"{TOP_LEVEL[name]}.pyi").write_text(_module(content), encoding="utf-8")
    _wrapper_package(package / "parameterNodeWrapper", python)
    (folder / "qt.pyi").write_text(HEADER + "def __getattr__(name: str) -> Any: ...\n", encoding="utf-8")
    ctk = {name: entry for name, entry in qt_classes.items() if name.startswith("ctk")}
    (folder / "ctk.pyi").write_text(HEADER + "".join(_qt_class(name, ctk, "") for name in ctk), encoding="utf-8")


def _read(name: str) -> dict[str, Any]:
    with gzip.open(HERE / name, "rt", encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content


def _slicer(qt_classes: dict[str, Any]) -> Iterator[str]:
    """The package itself: MRML classes, Slicer's Qt classes, what its start adds."""
    import slicer

    yield HEADER + "import vtk\n\nfrom . import util as util\n\n"
    classes = {name: one for name, one in vars(slicer).items() if inspect.isclass(one) and name.startswith("vtk")}
    for name, one in classes.items():
        base = next((parent.__name__ for parent in one.__mro__[1:] if parent.__name__ in classes), None)
        parents = [base] if base else [f"vtk.{one.__mro__[1].__name__}" if len(one.__mro__) > 2 else "object"]
        yield f"class {name}({', '.join(parents)}):\n" + _members(
            (member, not callable(value)) for member, value in vars(one).items()
        )
    for name in qt_classes:
        if not name.startswith("ctk"):
            yield _qt_class(name, qt_classes, "")
    for name, kind in VALUES.items():
        yield f"{name}: {kind}\n"


def _qt_class(name: str, known: dict[str, Any], prefix: str) -> str:
    entry = known[name]
    base = entry["base"] if entry["base"] in known else None
    members = {property_name: True for property_name in entry.get("properties", {})}
    for kind in ("signals", "slots", "invokables"):
        members.update({signature.partition("(")[0]: False for signature in entry.get(kind, [])})
    # What Qt's own classes have is not listed: the last base is open.
    opened = (
        ""
        if base
        else "    def __init__(self, *args: Any) -> None: ...\n    def __getattr__(self, name: str) -> Any: ...\n"
    )
    return f"class {name}{f'({base})' if base else ''}:\n{opened}" + _members(members.items(), empty=not opened)


def _members(members: Iterable[tuple[str, bool]], *, empty: bool = True) -> str:
    """Lines of a class body: (name, whether it is a value)."""
    lines = [
        f"    {name}: Any\n" if is_value else f"    def {name}(self, *args: Any, **keywords: Any) -> Any: ...\n"
        for name, is_value in members
        if name.isidentifier() and not name.startswith("_") and not keyword.iskeyword(name)
    ]
    return "".join(lines) or ("    ...\n" if empty else "")


def _module(content: dict[str, Any]) -> str:
    """A module of functions (name -> signature) and classes (name -> bases and methods)."""
    lines = [HEADER]
    for name, one in content.items():
        if isinstance(one, str):
            lines.append(f"def {name}{_signature(one)} -> Any: ...\n")
        else:
            lines.append(f"class {name}:\n    def __init__(self, *args: Any, **keywords: Any) -> None: ...\n")
            lines += [
                f"    {method}: Any\n"  # the list has no information about which of them are static
                for method in one
                if method not in ("bases", "__init__") and method.isidentifier()
            ]
            lines.append("    def __getattr__(self, name: str) -> Any: ...\n")
    return "".join(lines)


def _signature(text: str) -> str:
    """The parameters with their names; their defaults are not needed, only that there are some."""
    try:
        parsed = inspect.signature(eval(f"lambda {text[1:-1]}: None", {"__builtins__": {}}))
    except Exception:
        return "(*args: Any, **keywords: Any)"
    parts, starred = [], False
    for one in parsed.parameters.values():
        if one.kind is one.VAR_POSITIONAL:
            parts.append(f"*{one.name}: Any")
            starred = True
        elif one.kind is one.VAR_KEYWORD:
            parts.append(f"**{one.name}: Any")
        else:
            if one.kind is one.KEYWORD_ONLY and not starred:
                parts.append("*")
                starred = True
            parts.append(f"{one.name}: Any" + ("" if one.default is one.empty else " = ..."))
    return f"({', '.join(parts)})"


def _wrapper_package(folder: Path, python: dict[str, Any]) -> None:
    """`slicer.parameterNodeWrapper` gives the public names of its modules away."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = [name.rpartition(".")[2] for name in python if name.startswith("slicer.parameterNodeWrapper.")]
    (folder / "__init__.pyi").write_text("".join(f"from .{name} import *\n" for name in modules), encoding="utf-8")


if __name__ == "__main__":
    write_stubs(Path(sys.argv[1]))
