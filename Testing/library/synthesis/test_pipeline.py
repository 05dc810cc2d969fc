"""The pipeline: the result on the input's grid, masked and labelled, with provenance; cancellable at every stage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.errors import Cancelled, Refused
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis import engine
from USMRISynthesisLib.synthesis.pipeline import normalise, synthesize


def _synthesize(volume: Volume, model: Path, **options: object):  # type: ignore[no-untyped-def]
    return synthesize(volume, model=str(model), device="cpu", **options)  # type: ignore[arg-type]


@pytest.fixture
def to_canonical(head: Volume) -> np.ndarray:
    """The head's true place: its own axes are the fetal ones, 88 mm long."""
    matrix = np.eye(4)
    centre = head.ijk_to_ras @ [*((np.array(head.shape[::-1]) - 1) / 2), 1]
    matrix[:3, 3] = -centre[:3]
    return matrix


def test_a_volume_comes_out_on_its_own_grid_masked_and_labelled(
    head: Volume, trusted_model: Path, to_canonical: np.ndarray
) -> None:
    result = _synthesize(head, trusted_model, transform=to_canonical)
    assert result.mr.shape == head.shape and result.mr.array.dtype == np.int16
    np.testing.assert_array_equal(result.mr.ijk_to_ras, head.ijk_to_ras)
    np.testing.assert_array_equal(result.transform, to_canonical)
    assert result.mr.array.min() == 0 and 0 < result.mr.array.max() <= 1000
    assert not result.mr.array[head.array == 0][:1000].any()  # outside the fan
    assert result.mr.metadata["Comment"] == SYNTHETIC
    seen = result.confidence.array
    assert 0 <= seen.min() and seen.max() <= 1 and not result.mr.array[seen == 0].any()
    centre = tuple(n // 2 for n in head.shape)
    assert seen[centre] == 1 and 0.1 < (seen > 0).mean() < 0.6
    far = np.ones(head.shape, bool)
    far[9:-9, 7:-7, 13:-13] = False
    assert not result.mr.array[far].any()  # outside the head


def test_a_frame_comes_out_on_its_own_grid(frame: Volume, trusted_model: Path) -> None:
    result = _synthesize(frame, trusted_model)
    assert result.mr.shape == frame.shape and result.mr.array.max() > 0
    np.testing.assert_array_equal(result.mr.ijk_to_ras, frame.ijk_to_ras)
    assert result.provenance["slices"] == {"planes": ["axial"], "synthesised": 1, "of": 1}


def _resaved(volume: Volume, how: str) -> Volume:
    """The same voxels stored differently: axes flipped to a left-handed grid, or permuted."""
    array, matrix = volume.array, volume.ijk_to_ras.copy()
    if how == "left-handed":
        array = array[:, :, ::-1]
        matrix[:3, 3] += matrix[:3, 0] * (volume.shape[2] - 1)
        matrix[:3, 0] *= -1
    else:
        array = array.transpose(2, 0, 1)  # (i, k, j)
        matrix[:3, :3] = matrix[:3, [1, 2, 0]]
    return Volume(np.ascontiguousarray(array), matrix)


@pytest.mark.parametrize("how", ["left-handed", "permuted"])
def test_storing_the_volume_differently_does_not_move_the_result(
    head: Volume, trusted_model: Path, to_canonical: np.ndarray, how: str
) -> None:
    expected = _synthesize(head, trusted_model, transform=to_canonical).mr
    result = _synthesize(_resaved(head, how), trusted_model, transform=to_canonical).mr
    back = result.array[:, :, ::-1] if how == "left-handed" else result.array.transpose(1, 2, 0)
    difference = np.abs(back.astype(int) - expected.array)
    assert np.percentile(difference, 99) <= 1 and (difference > 20).mean() < 0.002


def test_provenance_describes_the_run_and_names_no_file(
    head: Volume, trusted_model: Path, to_canonical: np.ndarray
) -> None:
    named = Volume(head.array, head.ijk_to_ras, {"PatientName": "DOE^JANE"})
    result = _synthesize(named, trusted_model, transform=to_canonical)
    content = json.loads(json.dumps(result.provenance))
    assert content["notice"] == SYNTHETIC and content["alignment"]["method"] == "given"
    assert content["model"]["sha256"] and content["device"]["name"] == "cpu" and content["device"]["reason"]
    assert content["input"]["shape_kji"] == list(head.shape) and len(content["input"]["voxels_sha256"]) == 64
    assert len(content["seconds"]) >= 5 and content["batch"] == 2
    text = json.dumps(content) + json.dumps(dict(result.mr.metadata))
    assert "DOE" not in text and str(trusted_model) not in text


def test_a_poor_fit_is_not_refused_but_warned_about(
    head: Volume, trusted_model: Path, monkeypatch: pytest.MonkeyPatch, to_canonical: np.ndarray
) -> None:
    from dataclasses import replace

    from USMRISynthesisLib.synthesis import pipeline

    align = pipeline.align
    monkeypatch.setattr(pipeline, "align", lambda *a, **k: replace(align(*a, **k), score=MIN_CONFIDENCE - 0.01))
    logged: list[tuple[str, str]] = []
    result = _synthesize(head, trusted_model, transform=to_canonical, log=lambda *line: logged.append(line))
    assert not result.trusted and result.provenance["alignment_trusted"] is False
    assert [text for level, text in logged if level == "warning"] == result.provenance["warnings"] != []


def test_a_low_confidence_is_refused_unless_it_is_allowed_by_either_name(
    head: Volume, trusted_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from USMRISynthesisLib.synthesis import pipeline

    align = pipeline.align
    monkeypatch.setattr(pipeline, "align", lambda *a, **k: replace(align(*a, **k), score=MIN_CONFIDENCE - 0.01))
    with pytest.raises(
        Refused, match=r"not found reliably \(score 0.49; 0.50 is needed\).*--allow-low-confidence"
    ) as caught:
        _synthesize(head, trusted_model)
    assert caught.value.kind == "unreliable"
    for allowed in ({"allow_low_confidence": True}, {"unreliable": True}):
        assert not _synthesize(head, trusted_model, **allowed).trusted


@pytest.mark.parametrize(
    ("score", "method", "warned"),
    [(0.79, "network", True), (0.81, "network", False), (0.79, "given", False), (0.79, "ellipsoid", False)],
)
def test_a_head_that_may_be_reversed_is_synthesised_with_a_warning(
    head: Volume,
    trusted_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    to_canonical: np.ndarray,
    score: float,
    method: str,
    warned: bool,
) -> None:
    from dataclasses import replace

    from USMRISynthesisLib.synthesis import pipeline

    align = pipeline.align
    monkeypatch.setattr(pipeline, "align", lambda *a, **k: replace(align(*a, **k), score=score, method=method))
    result = _synthesize(head, trusted_model, transform=to_canonical)
    logged = [text for text in result.provenance["warnings"] if "may be reversed (score 0.79)" in text]
    assert bool(logged) is warned and result.trusted


def test_progress_rises_to_one(head: Volume, trusted_model: Path, to_canonical: np.ndarray) -> None:
    seen: list[tuple[float, str]] = []
    _synthesize(head, trusted_model, transform=to_canonical, progress=lambda *line: seen.append(line))
    values = [value for value, _ in seen]
    assert values == sorted(values) and values[0] == 0 and values[-1] == 1 and len(values) > 30


@pytest.mark.parametrize("stop", [0.0, 0.1, 0.5, 0.9])
def test_cancel_is_heard_at_every_stage(
    head: Volume, trusted_model: Path, to_canonical: np.ndarray, stop: float
) -> None:
    reached: list[float] = []
    with pytest.raises(Cancelled):
        _synthesize(
            head,
            trusted_model,
            transform=to_canonical,
            progress=lambda value, stage: reached.append(value),
            cancel=lambda: bool(reached) and reached[-1] >= stop,
        )
    assert stop <= reached[-1] < min(stop + 0.2, 1)


def test_no_such_planes_and_bad_images_are_refused_without_loading_a_model(
    head: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(engine, "load_generator", loaded)
    with pytest.raises(Refused, match=r"There are no 'oblique' slices. Choose axial, coronal, sagittal, all."):
        synthesize(head, model="nonesuch", planes="oblique")
    with pytest.raises(Refused):
        synthesize(Volume(np.zeros((32, 32, 32)), np.eye(4)))


def test_normalise_gives_the_head_in_canonical_space(head: Volume, to_canonical: np.ndarray) -> None:
    result = normalise(head, transform=to_canonical)
    assert result.canonical.shape == (160, 160, 160) and result.trusted
    axial = result.canonical.array[80]
    skull = round(33.5 / 0.6)
    assert min(axial[80, 80 - skull], axial[80, 80 + skull]) > 150 > axial[80, 80 + skull // 2]


def test_importing_the_package_and_what_slicer_loads_brings_no_torch() -> None:
    code = (
        "import sys, USMRISynthesisLib as u, USMRISynthesisLib.io.volume, USMRISynthesisLib.ultrasound.gate, "
        "USMRISynthesisLib.alignment.align, "
        "USMRISynthesisLib.models.store, USMRISynthesisLib.worker.client, USMRISynthesisLib.cli.command_line, "
        "USMRISynthesisLib.cli.infer, USMRISynthesisLib.cli.train; u.synthesize; u.Volume; u.Synthesis; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_models_caution_is_a_warning_of_every_result(trusted_model: Path, head: Volume, tmp_path: Path) -> None:
    folder = shutil.copytree(trusted_model, tmp_path / "unpaired")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"caution": "The inside is invented."}))
    logged: list[tuple[str, str]] = []
    result = _synthesize(head, folder, unreliable=True, log=lambda *line: logged.append(line))
    assert "The inside is invented." in result.provenance["warnings"]
    assert ("warning", "The inside is invented.") in logged
