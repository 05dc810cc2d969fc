"""Checks the repository against the rules of Slicer's extension index: its script and its reviewers.

    python Testing/check_extension.py        # prints each problem; exit 1 if there is one

The rules are those of ExtensionsIndex (scripts/check_description_files.py, August 2026) and of the schema 1.0.2. Two
cannot be checked from here: the topic "3d-slicer-extension" on the code's site, and that the addresses of the pictures
can be reached.
"""

from __future__ import annotations

import ast
import json
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "USMRISynthesis"
DESCRIPTION = ROOT / "Resources" / "USMRISynthesis.json"
SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#"
)
# The index accepts 100 MB of a clone of depth 1, history and files together; ours is kept well below.
MAX_CLONE_MB = 60
MAX_TREE_MB = 45
REPOSITORY_PREFIXES = ("Slicer", "SlicerExtension-", "SlicerExtension_")
LICENCES = ("LICENSE", "LICENCE", "License.txt", "license.txt", "LICENSE.txt", "COPYING", "COPYING.txt")
# SOP classes of ultrasound: image, multi-frame image, enhanced volume, Philips' private 3D volume.
ULTRASOUND = (
    "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.6.2",
    "1.2.840.113543.6.6.1.3.10002",
)
KEYS = {
    "$schema",
    "build_dependencies",
    "build_subdirectory",
    "category",
    "dicom_support_rule",
    "enabled",
    "scm_revision",
    "scm_type",
    "scm_url",
    "tier",
}
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
    raw = DESCRIPTION.read_bytes()
    content = json.loads(raw.decode("utf-8"))
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    if b"\r" in raw:
        yield "The description has line ends of another system."
    if content.get("$schema") != SCHEMA:
        yield "The description names another schema."
    if unknown := sorted(set(content) - KEYS):
        yield f"The schema does not know {', '.join(unknown)}."
    if content.get("category") != "Image Synthesis":
        yield "The category is not one that the index accepts."
    if content.get("tier") not in range(1, 6):
        yield "The tier is not 1 to 5."
    if "scm_revision" in content:
        yield "The description names a revision: the index would clone the whole history."
    rule = str(content.get("dicom_support_rule", ""))
    if missing := [uid for uid in ULTRASOUND if f"SOPClassUID == '{uid}'" not in rule]:
        yield f"The DICOM support rule lacks {', '.join(missing)}."
    yield from _address(str(content.get("scm_url", "")), cmake)
    wanted = re.search(r'set\(EXTENSION_DEPENDS "([^"]*)"\)', cmake)
    if wanted is None or content.get("build_dependencies") != wanted.group(1).split():
        yield "The description and CMakeLists.txt name different dependencies."


def _address(url: str, cmake: str) -> Iterator[str]:
    """Where the code is: names of repository and extension, home page, project."""
    if not url.startswith("https://"):
        yield "The description does not say where the code is."
    repository = url.rstrip("/").rpartition("/")[2].removesuffix(".git")
    if not repository.startswith(REPOSITORY_PREFIXES):
        yield f"The repository's name {repository!r} does not begin with Slicer."
    if DESCRIPTION.stem.lower().startswith("slicer"):
        yield "The extension's name begins with Slicer."
    project = re.search(r"project\s*\(\s*([^\s)]+)", cmake)
    if project is None or project.group(1) != "USMRISynthesis":
        yield "CMakeLists.txt names another project than the extension."
    if f'EXTENSION_HOMEPAGE "{url.removesuffix(".git")}"' not in cmake:
        yield "The home page and the place of the code differ."
    if not re.search(r'EXTENSION_CONTRIBUTORS "[^"(]+ \([^")]+\)', cmake):
        yield "The contributors are not written as Name (Organisation)."


def _pictures() -> Iterator[str]:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for name in ("ICONURL", "SCREENSHOTURLS"):
        if not re.search(rf'set\(EXTENSION_{name}\s*"[^"]+"\)', cmake):
            yield f"CMakeLists.txt has no EXTENSION_{name}."
    for url in re.findall(r"https://raw\.githubusercontent\.com/\S+?\.png", cmake):
        inside = re.sub(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[^/]+/", "", url)
        if not (ROOT / inside).is_file():
            yield f"The picture {inside} that CMakeLists.txt names is not there."
    for icon in (ROOT / "Resources" / "USMRISynthesis.png", MODULE / "Resources" / "Icons" / "USMRISynthesis.png"):
        if _size(icon) != (128, 128):
            yield f"The icon {icon.name} is not 128 by 128 pixels."
    for name in _sample_names():
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


def _sample_names() -> list[str]:
    file = next((MODULE / "USMRISynthesisScene").rglob("sample_data.py"))
    return re.findall(r'"(FetalHead\w+)"', file.read_text(encoding="utf-8"))


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
    if not any((ROOT / name).is_file() for name in LICENCES):
        yield "There is no licence file at the top."
    module = (MODULE / "USMRISynthesis.py").read_text(encoding="utf-8")
    for name in ("title", "helpText", "acknowledgementText", "contributors", "categories"):
        if f"parent.{name} =" not in module:
            yield f"The module does not set its {name}."
    if f'parent.title = _("{DESCRIPTION.stem}")' not in module:
        yield "The module has another title than the extension."
    if "<a href=" not in module:
        yield "The help text does not link to the documentation."
    for name in ("setup", "enter", "exit", "cleanup"):
        if f"def {name}(self)" not in module:
            yield f"The widget has no {name}()."
    if "WITH_GENERIC_TESTS" not in (MODULE / "CMakeLists.txt").read_text(encoding="utf-8"):
        yield "The module does not run Slicer's generic tests."


def _imports() -> Iterator[str]:
    """What Slicer loads at its start may import only what Slicer brings, and never torch."""
    for path in [MODULE / "USMRISynthesis.py", *sorted((MODULE / "USMRISynthesisScene").rglob("*.py"))]:
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
    for path in sorted((MODULE / "USMRISynthesisScene").rglob("*.py")):
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
    tree, clone = tree_megabytes(), clone_megabytes()
    if tree > MAX_TREE_MB:
        yield f"The files take {tree:.0f} MB, more than {MAX_TREE_MB}."
    if clone > MAX_CLONE_MB:
        yield f"A clone of depth 1 takes {clone:.0f} MB, more than {MAX_CLONE_MB}."


def tree_megabytes() -> float:
    """Size of the files that the last commit holds."""
    sizes = [line.split()[3] for line in _git("ls-tree", "-r", "-l", "HEAD").splitlines()]
    return sum(int(size) for size in sizes if size.isdigit()) / 2**20


def clone_megabytes() -> float:
    """Size of a clone of depth 1 with its files, as the index measures it."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(clone)], check=True, timeout=600)
        return sum(path.lstat().st_size for path in clone.rglob("*") if path.is_file()) / 2**20


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
