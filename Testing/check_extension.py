"""Is the repository ready for Slicer's extension index: what its reviewers and its checks ask for.

    python Testing/check_extension.py        # says what is missing; exit 1 if anything is

What no script can see is left to a person: the topic "3d-slicer-extension" on the code's site, and that the pictures
are good ones.
"""

from __future__ import annotations

import ast
import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "USMRISynthesis"
DESCRIPTION = ROOT / "Resources" / "USMRISynthesis.json"
SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#"
)
MAX_CLONE_MB = 100
ALLOWED_IMPORTS = {
    *sys.stdlib_module_names,
    "slicer",
    "qt",
    "ctk",
    "vtk",
    "SimpleITK",
    "numpy",
    "scipy",
    "USMRISynthesisLib",
    "USMRISynthesisScene",
}


def problems() -> Iterator[str]:
    """One sentence for each thing that is not as it should be."""
    yield from _description()
    yield from _pictures()
    yield from _texts()
    yield from _imports()
    yield from _translations()
    yield from _repository()


def _description() -> Iterator[str]:
    content = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    if content.get("$schema") != SCHEMA:
        yield "The description names another schema."
    if content.get("category") != "Image Synthesis":
        yield "The category is not one that the index accepts."
    if not str(content.get("scm_url", "")).startswith("https://") or not content.get("scm_revision"):
        yield "The description does not say where the code is."
    wanted = re.search(r'set\(EXTENSION_DEPENDS "([^"]*)"\)', cmake)
    if wanted is None or content.get("build_dependencies") != wanted.group(1).split():
        yield "The description and CMakeLists.txt name different dependencies."
    unknown = set(content) - {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "scm_revision",
        "scm_url",
        "tier",
    }
    if unknown:
        yield f"The schema does not know {', '.join(sorted(unknown))}."
    if f'EXTENSION_HOMEPAGE "{content.get("scm_url", "").removesuffix(".git")}"' not in cmake:
        yield "The home page and the place of the code differ."


def _pictures() -> Iterator[str]:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for url in re.findall(r"https://raw\.githubusercontent\.com/\S+?\.png", cmake):
        inside = re.sub(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[^/]+/", "", url)
        if not (ROOT / inside).is_file():
            yield f"The picture {inside} that CMakeLists.txt names is not there."
    for icon in (ROOT / "Resources" / "USMRISynthesis.png", MODULE / "Resources" / "Icons" / "USMRISynthesis.png"):
        if _size(icon) != (128, 128):
            yield f"The icon {icon.name} is not 128 by 128 pixels."
    for name in re.findall(r'"(FetalHead\w+)"', (MODULE / "USMRISynthesisScene" / "sample_data.py").read_text("utf-8")):
        width, height = _size(MODULE / "Resources" / "Icons" / f"{name}.png")
        if not (200 <= width <= 320 and 200 <= height <= 320):
            yield f"The sample {name} has no thumbnail of about 260 by 280 pixels."
    screenshots = sorted((ROOT / "Resources" / "Screenshots").glob("*.png"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if len(screenshots) < 2:
        yield "There are fewer than two screenshots."
    for one in screenshots:
        if f"Resources/Screenshots/{one.name}" not in readme:
            yield f"The README does not show {one.name}."
        if min(_size(one)) < 300:
            yield f"The screenshot {one.name} is too small to read."


def _texts() -> Iterator[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, pattern in {
        "what it is not for": r"(?i)not for diagnosis",
        "a tutorial": r"(?m)^#+ .*Tutorial",
        "a citation": r"(?m)^#+ Cite",
        "the licence": r"Licence: Apache-2\.0",
    }.items():
        if not re.search(pattern, readme):
            yield f"The README lacks {name}."
    if "Apache License" not in (ROOT / "LICENSE").read_text(encoding="utf-8"):
        yield "The licence's text is not there."
    module = (MODULE / "USMRISynthesis.py").read_text(encoding="utf-8")
    for name in ("helpText", "acknowledgementText", "contributors", "categories"):
        if f"parent.{name} =" not in module:
            yield f"The module does not set its {name}."
    if "WITH_GENERIC_TESTS" not in (MODULE / "CMakeLists.txt").read_text(encoding="utf-8"):
        yield "The module does not run Slicer's generic tests."


def _imports() -> Iterator[str]:
    """What Slicer loads at its start may import only what Slicer brings, and never torch."""
    for path in [MODULE / "USMRISynthesis.py", *sorted((MODULE / "USMRISynthesisScene").glob("*.py"))]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = (
                [one.name for one in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                if name.split(".")[0] not in ALLOWED_IMPORTS:
                    yield f"{path.name} imports {name} when it is loaded."


def _translations() -> Iterator[str]:
    """A text that is put on a widget is marked as translatable."""
    put = re.compile(r'(?:\.(?:text|toolTip) = |self\._say\()f?"[A-Za-z]')
    for path in sorted((MODULE / "USMRISynthesisScene").glob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if put.search(line) and '= f"{' not in line:
                yield f"{path.name}:{number} shows a text that cannot be translated."


def _repository() -> Iterator[str]:
    if not (ROOT / ".git").exists():
        return
    for line in _git("ls-files", "--eol").splitlines():
        # Tables are data: their line ends are CRLF by the format's own rules (RFC 4180).
        if line.startswith(("i/crlf", "i/mixed")) and not line.endswith(".csv"):
            yield f"{line.split()[-1]} has line ends of another system."
    # Each object once: a checkout may hold the same pack twice, which says nothing of a clone.
    megabytes = int(_git("rev-list", "--disk-usage", "--objects", "HEAD")) / 2**20
    if megabytes > MAX_CLONE_MB:
        yield f"A clone takes {megabytes:.0f} MB, more than {MAX_CLONE_MB}."


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file; (0, 0) where there is none."""
    head = path.read_bytes()[:24] if path.is_file() else b""
    width, height = struct.unpack(">II", head[16:24]) if head.startswith(b"\x89PNG") else (0, 0)
    return width, height


def main() -> int:
    found = list(problems())
    for one in found:
        print(one)
    print(f"{len(found)} problem{'s' if len(found) != 1 else ''} found.")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
