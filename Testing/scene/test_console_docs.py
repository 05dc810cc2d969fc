"""The examples of docs/console.md run as they are, one after the other, without a main window and without dialogs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from scenery import REPOSITORY, add_head, add_stack, head_array
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store
from USMRISynthesisScene.nodes import nodes

PAGE = (REPOSITORY / "docs" / "console.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_examples_run_as_they_stand(
    host: Any,
    module: Any,
    three_planes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pydicom")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a dialog")

    for name in ("confirmOkCancelDisplay", "confirmYesNoDisplay", "messageBox"):
        monkeypatch.setattr(slicer.util, name, never, raising=False)
    add_head()
    add_stack()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    Volume(head_array((1, 120, 112), (1.0, 1, 1)), np.diag([1.0, 1, 1, 1])).write(tmp_path / "in" / "frame.nrrd")
    monkeypatch.setattr(slicer.app, "_value_temporaryPath", str(tmp_path))
    # The tests' small model in place of the large one, wherever "default" is meant.
    monkeypatch.setattr(
        store, "find_model", lambda name, find=store.find_model: three_planes if name == "default" else find(name)
    )
    names: dict[str, Any] = {"slicer": slicer}
    host.set_main_window(False)
    try:
        for text in EXAMPLES:
            if "logic.synthesize(ultrasound" in text:  # the worker is a process of its own
                text = text.replace(
                    'device="cpu"', f'device="cpu", allow_low_confidence=True, model={str(three_planes)!r}'
                )
            text = text.replace(
                'device="cpu", allow_low_confidence=True)\nrun',
                f'model={str(three_planes)!r}, device="cpu", allow_low_confidence=True)\nrun',
            )
            exec(compile(text, "console.md", "exec"), names)
    finally:
        host.set_main_window(True)
        if "logic" in names:
            names["logic"].synthesizer.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Fetal head MR-like (SYNTHETIC") and "48" in lines
    assert any(line.startswith("empty - Empty holds no image.") for line in lines)
    assert lines[-1] == "1 case: 1 done."
    assert "Fetal MR thin slices (SYNTHETIC - not for diagnosis)" in lines
    assert nodes.is_synthetic(names["mr"]) and names["provenance"]["alignment"]["method"] == "given"
    assert names["planes"] == "axial"
    assert names["ultrasound"].GetTransformNodeID() == names["registration"].GetID()
    assert (tmp_path / "head-mr.nrrd").is_file() and (tmp_path / "head-mr.json").is_file()
    assert (tmp_path / "out" / "frame-mr.nrrd").is_file()


def test_every_parameter_of_the_console_calls_is_documented(module: Any) -> None:
    import inspect
    import sys

    logic = sys.modules["USMRISynthesis"].USMRISynthesisLogic
    for method in (logic.synthesize, logic.respace):
        for name in list(inspect.signature(method).parameters)[1:]:
            assert f":param {name}:" in (method.__doc__ or ""), name
