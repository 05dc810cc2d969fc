"""The script for people with Slicer: it runs here too, uses what Slicer has, and its transcripts can be compared."""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ctk
import pytest
import qt
import slicer
from scenery import REPOSITORY
from slicer_standin.generated import reachable_names
from slicer_standin.slice_view import SIZE
from slicer_walkthrough.transcript import NotTried, Transcript, differences, plain
from USMRISynthesisLib.models.store import installed_models
from USMRISynthesisScene.files.sample_data import FILES, sample_file

TESTING = REPOSITORY / "Testing"
SCRIPTS = [TESTING / "inside_slicer.py", *sorted((TESTING / "slicer_walkthrough").glob("*.py"))]
# Imports that every Slicer has.
BUNDLED = {"slicer", "qt", "ctk", "vtk", "numpy", "USMRISynthesisScene", "USMRISynthesisLib", "slicer_walkthrough"}


def dotted(node: ast.AST) -> str:
    """`slicer.util.getNode` for such a chain of names; "" for other expressions."""
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return node.id if isinstance(node, ast.Name) else ""


def names_in(path: Path) -> set[str]:
    return {dotted(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if dotted(node)}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_uses_no_name_that_slicer_does_not_have(path: Path) -> None:
    application = reachable_names("qSlicerApplication") | {"processEvents"}
    for name in names_in(path):
        parts = name.split(".")
        if name.startswith("slicer.util."):
            assert hasattr(slicer.util, parts[2]), name
        elif name.startswith("slicer.app."):
            assert parts[2] in application, name
        elif name.startswith("slicer.vtk"):
            assert hasattr(getattr(slicer, parts[1]), parts[2] if len(parts) > 2 else "__name__"), name
        elif parts[0] in ("qt", "ctk") and len(parts) > 1:
            assert hasattr({"qt": qt, "ctk": ctk}[parts[0]], parts[1]), name
        elif name.startswith("slicer."):
            assert parts[1] in ("util", "app", "mrmlScene", "modules"), name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_imports_only_what_slicer_brings(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {one.name.split(".")[0] for one in node.names}
    assert imported <= BUNDLED | set(sys.stdlib_module_names)


def test_steps_keep_state_events_and_the_reason_of_a_failure(tmp_path: Path) -> None:
    transcript = Transcript({"slicer": "5"})
    with transcript.step("good") as state:
        transcript.events.append("added")
        state["took"], state["where"] = "done, 12 s", f"Written to {tmp_path}/report.pdf"
    with transcript.step("bad"):
        raise AssertionError("the object at 0x7fe1989e4d90 is wrong")
    with transcript.step("absent"):
        raise NotTried("Install SlicerElastix.")
    assert [one["outcome"] for one in transcript.steps] == ["passed", "failed", "not tried"]
    assert transcript.steps[0]["events"] == ["added"] and transcript.steps[1]["events"] == []
    assert transcript.steps[0]["state"] == {"took": "done, N s", "where": "Written to <path>"}
    assert transcript.steps[1]["reason"] == "AssertionError: the object at <address> is wrong"
    assert transcript.failed == ["bad"]
    transcript.write(tmp_path / "transcript.json")
    assert json.loads((tmp_path / "transcript.json").read_text(encoding="utf-8"))["steps"] == transcript.steps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Volume of 140 x 160 x 150 voxels of 0.8 x 0.8 mm", None),
        ("Confidence: 0.98. The head was found.", None),
        ("C:\\Users\\me\\out\\report.pdf", "<path>"),
        ("about 20 s left", "about N s left"),
        ("N/A", None),
    ],
)
def test_only_times_paths_and_addresses_are_taken_out(text: str, expected: str | None) -> None:
    assert plain(text) == (expected or text)


def test_comparison_names_differences_and_skipped_steps(tmp_path: Path) -> None:
    step = {
        "step": "load",
        "outcome": "passed",
        "reason": "",
        "state": {"views": {"MR": {"marked": True}}},
        "events": [],
    }
    absent = {"step": "Elastix", "outcome": "not tried", "reason": "Not installed.", "state": {}, "events": []}
    one = {"application": {"slicer": "5.12"}, "steps": [step, absent]}
    other = copy.deepcopy(one)
    other["application"] = {"slicer": "stand-in"}
    assert differences(one, other) == ([], ["Elastix: not tried (Not installed.)"])
    other["steps"][0]["state"]["views"]["MR"]["marked"] = False  # type: ignore[index]
    other["steps"].append({**step, "step": "more"})  # type: ignore[attr-defined]
    assert differences(one, other)[0] == ["load: state.views.MR.marked is True and False", "more: only in the second"]
    for name, content in (("one", one), ("other", other)):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    command = [sys.executable, str(REPOSITORY / "Testing" / "compare_transcripts.py")]
    for second, code in (("one", 0), ("other", 1)):
        done = subprocess.run(
            [*command, str(tmp_path / "one"), str(tmp_path / second)], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
    assert "load: state.views.MR.marked is True and False" in done.stdout


@pytest.fixture(scope="module")
def walked(host: Any, module: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The exit code and the folder of one walk through everything, with the models that are installed."""
    if not installed_models() or not all(sample_file(name).is_file() for name in FILES):
        pytest.skip("no model or no sample is installed")
    from slicer_walkthrough.everything import try_everything

    folder = tmp_path_factory.mktemp("walk")
    try:
        return try_everything(folder, pace=0.2), folder
    finally:
        host.close_module(module)


def test_walkthrough_passes_in_the_stand_in(walked: tuple[int, Path]) -> None:
    code, folder = walked
    steps = json.loads((folder / "transcript.json").read_text(encoding="utf-8"))["steps"]
    assert [(one["step"], one["reason"]) for one in steps if one["outcome"] == "failed"] == []
    assert code == 0
    untried = [one["step"] for one in steps if one["outcome"] == "not tried"]
    assert untried == ["FetalHeadSimulated: registration module"]
    for word in (
        "fade",
        "contours",
        "reveal",
        "three planes",
        "3D",
        "landmarks",
        "slice spacing",
        "batch",
        "export",
        "cancel",
        "close the scene",
        "parent transform",
        "All three combined",
    ):
        assert any(word in one["step"] for one in steps), word


def test_walkthrough_leaves_pictures_and_no_path_time_or_address(walked: tuple[int, Path]) -> None:
    _, folder = walked
    text = (folder / "transcript.json").read_text(encoding="utf-8")
    assert str(folder) not in text and "0x" not in text and str(REPOSITORY) not in text
    pictures = {path.name for path in folder.glob("*.png")}
    for step in ("FetalHeadSimulated-axial", "FetalHeadSimulated-three-planes", "FetalHeadHC18-axial", "batch"):
        assert {f"{step}-panel.png", f"{step}-views.png"} <= pictures
    from PIL import Image

    with Image.open(folder / "FetalHeadSimulated-three-planes-views.png") as page:
        assert page.size[0] > 3 * SIZE[0] and page.size[1] > 3 * SIZE[1]


def test_walkthrough_fails_without_the_panel(
    module: Any, host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slicer_walkthrough.everything import try_everything

    def broken(self: Any) -> None:
        raise TypeError("Unable to write value 'None'")

    monkeypatch.setattr(sys.modules["USMRISynthesis"].USMRISynthesisWidget, "setup", broken)
    assert try_everything(tmp_path, pace=0.0) == 1
    steps = json.loads((tmp_path / "transcript.json").read_text(encoding="utf-8"))["steps"]
    assert [(one["step"], one["outcome"]) for one in steps] == [("open the panel", "failed")]
    assert "Unable to write value" in steps[0]["reason"]
    host.close_module(module)
