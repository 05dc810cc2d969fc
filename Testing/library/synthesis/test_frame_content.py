"""The pipeline and what a frame shows: refusal, override, trust and provenance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib.alignment.frame import admission
from USMRISynthesisLib.alignment.frame.content import FrameContent, content_of
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.pipeline import normalise, synthesize


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> list[FrameContent]:
    """What the network answers, to be changed by the test; at first a brain in the thalamic plane."""
    answers = [content_of(np.array([4.0, 3.0, 0.0, 0.0, 0.0]))]
    monkeypatch.setattr(admission, "classify_frame", lambda volume, fan: answers[0])
    return answers


def test_a_frames_content_is_in_the_provenance_and_a_volumes_is_not(
    frame: Volume, head: Volume, trusted_model: Path, answer: list[FrameContent]
) -> None:
    made = synthesize(frame, model=str(trusted_model), device="cpu", allow_low_confidence=True)
    noted = made.provenance["frame_content"]
    assert noted["answer"] == "trans-thalamic" and sum(noted["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert "frame_content" not in normalise(head).provenance


def test_no_brain_is_refused_even_where_a_low_confidence_is_allowed(
    frame: Volume, trusted_model: Path, answer: list[FrameContent]
) -> None:
    answer[0] = content_of(np.array([-2.0, 0.0, 0.0, 0.0, 0.0]))
    for work in (
        lambda: synthesize(frame, model=str(trusted_model), device="cpu", allow_low_confidence=True),
        lambda: normalise(frame),
    ):
        with pytest.raises(Refused, match="does not look like an ultrasound of a fetal brain") as caught:
            work()
        assert caught.value.kind == "content"


def test_no_brain_goes_on_where_any_content_is_wanted_and_is_not_trusted(
    frame: Volume, trusted_model: Path, answer: list[FrameContent]
) -> None:
    options = {"model": str(trusted_model), "device": "cpu", "allow_low_confidence": True}
    before = synthesize(frame, **options)  # type: ignore[arg-type]
    answer[0] = content_of(np.array([-2.0, 0.0, 0.0, 0.0, 0.0]))
    made = synthesize(frame, any_content=True, **options)  # type: ignore[arg-type]
    assert not made.trusted and made.provenance["alignment"]["score"] == pytest.approx(answer[0].brain, abs=1e-4)
    assert any("does not look like" in text for text in made.provenance["warnings"])
    assert made.provenance["frame_content"]["answer"] == "no brain"
    np.testing.assert_array_equal(made.mr.array, before.mr.array)  # the answer changes no voxel


def test_the_lower_of_outline_and_content_decides(
    frame: Volume, trusted_model: Path, answer: list[FrameContent]
) -> None:
    options = {"model": str(trusted_model), "device": "cpu", "allow_low_confidence": True}
    sure = synthesize(frame, **options).provenance["alignment"]["score"]  # type: ignore[arg-type]
    answer[0] = content_of(np.array([0.1, 3.0, 0.0, 0.0, 0.0]))
    unsure = synthesize(frame, **options).provenance["alignment"]["score"]  # type: ignore[arg-type]
    assert unsure == pytest.approx(min(sure, answer[0].brain), abs=1e-4) and unsure < 0.53


def test_another_plane_is_a_warning_of_the_result(
    frame: Volume, trusted_model: Path, answer: list[FrameContent]
) -> None:
    answer[0] = content_of(np.array([4.0, 0.0, 0.0, 5.0, 0.0]))
    lines: list[tuple[str, str]] = []
    made = synthesize(
        frame, model=str(trusted_model), device="cpu", allow_low_confidence=True, log=lambda *one: lines.append(one)
    )
    assert any("trans-cerebellum" in text for text in made.provenance["warnings"])
    assert ("warning", next(t for t in made.provenance["warnings"] if "trans-cerebellum" in t)) in lines


def test_a_volume_without_speckle_goes_on_where_any_content_is_wanted(head: Volume) -> None:
    k, j, i = np.indices(head.shape)
    smooth = 120 + 60 * np.sin(j / 9 + k / 5) * np.cos(i / 11 - k / 6)
    ball = np.hypot(np.hypot(j - 36, i - 36), k - 32) < 30
    volume = Volume((smooth * ball).astype(np.uint8), head.ijk_to_ras)
    with pytest.raises(Refused, match=r"no speckle.*--any-content") as caught:
        normalise(volume)
    assert caught.value.kind == "modality"
    assert normalise(volume, any_content=True).canonical.shape == (160, 160, 160)
