"""What a frame shows: the network's answer, what is refused because of it, and what is warned of."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from USMRISynthesisLib.alignment.frame import admission
from USMRISynthesisLib.alignment.frame.admission import check_content, classify_frame, doubts
from USMRISynthesisLib.alignment.frame.content import NO_BRAIN, PLANES, FrameContent, content_of
from USMRISynthesisLib.alignment.frame.content_model import classify, views_of
from USMRISynthesisLib.alignment.frame.content_network import SIZE, ContentNetwork
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store
from USMRISynthesisLib.ultrasound.fan import find_fan

BRAIN = content_of(np.array([3.0, 2.0, 0.0, 0.0, -2.0]))
CEREBELLUM = content_of(np.array([3.0, 0.0, 0.0, 4.0, 0.0]))
NOTHING = content_of(np.array([-3.0, 2.0, 0.0, 0.0, 0.0]))


@pytest.fixture
def fan(frame: Volume) -> np.ndarray:
    return find_fan(frame.array, frame.spacing)


def answering(monkeypatch: pytest.MonkeyPatch, answer: FrameContent | None) -> None:
    monkeypatch.setattr(admission, "classify_frame", lambda volume, fan: answer)


def smooth(frame: Volume) -> Volume:
    """A frame without speckle, as after a strong filter."""
    j, i = np.indices(frame.array.shape[1:])
    grey = 120 + 60 * np.sin(j / 9) * np.cos(i / 11)
    return frame.with_values((grey * (np.hypot(j - j.mean(), i - i.mean()) < 30)).astype(np.uint8)[None])


def alignment(around_mm: float) -> Alignment:
    """Of a round head with this circumference, in an image that is scaled by 1.25 to canonical space."""
    radius = 1.25 * around_mm / (2 * np.pi)
    matrix = np.diag([1.25, 1.25, 1.25, 1.0])
    return Alignment(matrix, np.zeros(3), np.array([radius, radius, 0.0]), np.eye(3), 0.9, "network")


def test_the_answers_probabilities_add_up_to_one_and_the_largest_plane_is_named() -> None:
    assert BRAIN.answer == "trans-thalamic" and CEREBELLUM.answer == "trans-cerebellum"
    for one in (BRAIN, CEREBELLUM, NOTHING):
        assert set(one.probabilities) == {*PLANES, NO_BRAIN}
        assert sum(one.probabilities.values()) == pytest.approx(1)
    assert BRAIN.brain == pytest.approx(1 / (1 + np.exp(-3)))


def test_below_one_half_a_frame_shows_no_brain_whatever_the_plane() -> None:
    assert NOTHING.answer == NO_BRAIN and not NOTHING.shows_brain
    assert content_of(np.array([-0.01, 9.0, 0.0, 0.0, 0.0])).answer == NO_BRAIN
    assert content_of(np.array([0.01, 9.0, 0.0, 0.0, 0.0])).answer == "trans-thalamic"


def test_the_network_sees_eight_views_and_its_logits_are_averaged(frame: Volume, fan: np.ndarray) -> None:
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> np.ndarray:
        seen.append(x)
        return np.stack([np.full(5, float(n)) for n in range(len(x))])

    answer = classify(network, frame, fan)
    assert seen[0].shape == (8, 1, SIZE, SIZE) and answer.brain == pytest.approx(1 / (1 + np.exp(-3.5)))
    assert seen[0].min() == -1 and seen[0].max() > 0.9
    assert ContentNetwork()(seen[0]).shape == (8, 5)


def test_gain_and_place_in_the_picture_do_not_reach_the_network(frame: Volume, fan: np.ndarray) -> None:
    views = views_of(frame, fan)
    moved = np.pad(frame.array, ((0, 0), (30, 4), (7, 21)))
    dimmed = Volume((moved * 0.5).astype(np.float32), frame.ijk_to_ras)
    other = views_of(dimmed, np.pad(fan, ((0, 0), (30, 4), (7, 21))))
    assert float((views - other).abs().mean()) < 0.02


def test_a_frame_without_a_brain_is_refused_with_what_to_do(
    frame: Volume, fan: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, NOTHING)
    with pytest.raises(Refused, match=r"does not look like an ultrasound of a fetal brain.*--any-content") as caught:
        check_content(frame, fan, warn=str)
    assert caught.value.kind == "content" and "0.05" in caught.value.message


@pytest.mark.parametrize("how", [{"any_content": True}, {"marked": True}])
def test_a_frame_without_a_brain_is_accepted_with_a_warning_where_it_is_wanted(
    frame: Volume, fan: np.ndarray, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]
) -> None:
    answering(monkeypatch, NOTHING)
    warnings: list[str] = []
    assert check_content(frame, fan, warn=warnings.append, **how) is NOTHING
    assert len(warnings) == 1 and "does not look like" in warnings[0]


def test_a_filtered_frame_that_shows_a_brain_needs_no_speckle(frame: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    filtered = smooth(frame)
    fan = find_fan(filtered.array, filtered.spacing)
    answering(monkeypatch, BRAIN)
    assert check_content(filtered, fan, warn=pytest.fail) is BRAIN
    unsure = content_of(np.array([1.0, 2.0, 0.0, 0.0, 0.0]))
    assert unsure.shows_brain
    for answer in (NOTHING, unsure, None):
        answering(monkeypatch, answer)
        with pytest.raises(Refused, match=r"no speckle.*MR or CT") as caught:
            check_content(filtered, fan, warn=pytest.fail)
        assert caught.value.kind == "modality"
    answering(monkeypatch, None)
    assert check_content(filtered, fan, any_content=True, warn=pytest.fail) is None


def test_nothing_is_known_of_the_content_without_the_model(
    frame: Volume, fan: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Path:
        raise Failed("no-model", "There is no model.", "Install it.")

    monkeypatch.setattr(store, "find_model", missing)
    assert classify_frame(frame, fan) is None and check_content(frame, fan, warn=pytest.fail) is None


def test_another_plane_is_warned_of_and_the_expected_ones_are_not() -> None:
    large = alignment(260)
    assert doubts(BRAIN, large) == doubts(None, large) == doubts(NOTHING, large) == []
    (warning,) = doubts(CEREBELLUM, large)
    assert "another plane" in warning and "trans-cerebellum" in warning
    unsure = content_of(np.array([3.0, 1.0, 0.0, 1.1, 0.0]))
    assert unsure.answer == "trans-cerebellum" and doubts(unsure, large) == []


@pytest.mark.parametrize(("around_mm", "warned"), [(149.0, True), (151.0, False)])
def test_a_head_smaller_than_any_of_the_training_is_warned_of_in_its_own_mm(around_mm: float, warned: bool) -> None:
    found = doubts(BRAIN, alignment(around_mm))
    assert len(found) == warned
    assert not warned or re.search(r"about 149 mm.*older fetus", found[0])
    assert len(doubts(None, replace(alignment(around_mm), score=0.1))) == warned


def test_blur_alone_is_not_what_tells_frames_apart(frame: Volume, fan: np.ndarray) -> None:
    """The views keep a blurred frame's contrast: it is stretched like any other."""
    blurred = frame.with_values(ndimage.gaussian_filter(frame.array[0], 2.0)[None])
    assert float(views_of(blurred, fan).max()) > 0.9
