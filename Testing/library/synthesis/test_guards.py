"""From ultrasound to MR nothing is drawn outside the fan; what is no number is neither trusted nor computed with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis import multiplane, pipeline
from USMRISynthesisLib.synthesis.pipeline import synthesize


def _synthesize(volume: Volume, model: Path, **options: object):  # type: ignore[no-untyped-def]
    return synthesize(volume, model=str(model), device="cpu", **options)  # type: ignore[arg-type]


@pytest.fixture
def to_canonical(head: Volume) -> np.ndarray:
    """The head's true place: its own axes are the fetal ones, 88 mm long."""
    matrix = np.eye(4)
    centre = head.ijk_to_ras @ [*((np.array(head.shape[::-1]) - 1) / 2), 1]
    matrix[:3, 3] = -centre[:3]
    return matrix


@pytest.mark.parametrize("one", ["volume", "frame"])
def test_nothing_is_drawn_outside_the_fan_where_the_head_reaches_beyond_it(
    wide_head: Volume, wide_head_fan: np.ndarray, trusted_model: Path, to_canonical: np.ndarray, one: str
) -> None:
    volume, fan = wide_head, wide_head_fan
    if one == "frame":
        matrix = volume.ijk_to_ras.copy()
        matrix[:3, 3] += matrix[:3, 2] * 32
        volume, fan = Volume(volume.array[32:33], matrix), fan[32:33]
    result = _synthesize(volume, trusted_model, transform=to_canonical)
    k, j, i = np.indices(volume.shape)
    ras = np.einsum("ab,b...->a...", volume.ijk_to_ras, np.stack([i, j, k, np.ones_like(i)]))
    x, y, z, _ = np.einsum("ab,b...->a...", to_canonical, ras)
    inside = (x / 34) ** 2 + (y / 44) ** 2 + (z / 33) ** 2 < 0.8
    beyond = inside & ~binary_dilation(fan, np.ones((1, 3, 3)), iterations=2)
    assert beyond.sum() > 0.01 * inside.sum()  # the head does reach beyond the fan
    assert not result.mr.array[beyond].any() and not result.confidence.array[beyond].any()
    assert (result.confidence.array[inside & binary_erosion(fan, np.ones((1, 3, 3)), iterations=2)] > 0).mean() > 0.9


@pytest.mark.parametrize("allowed", [False, True])
def test_a_score_that_is_no_number_is_refused_whatever_is_allowed(
    head: Volume, trusted_model: Path, monkeypatch: pytest.MonkeyPatch, to_canonical: np.ndarray, allowed: bool
) -> None:
    align = pipeline.align
    monkeypatch.setattr(pipeline, "align", lambda *a, **k: replace(align(*a, **k), score=float("nan")))
    for options in ({"transform": to_canonical}, {"allow_low_confidence": allowed}):
        with pytest.raises(Refused, match=r"could not be computed from this image\. Check its grey values"):
            _synthesize(head, trusted_model, **options)


@pytest.mark.parametrize(("score", "refused"), [(0.499, True), (0.5, False), (0.501, False)])
def test_a_head_below_the_threshold_is_refused(
    head: Volume,
    trusted_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    to_canonical: np.ndarray,
    score: float,
    refused: bool,
) -> None:
    align = pipeline.align
    known = replace(align(head, head.array > 0, transform=to_canonical), score=score)
    monkeypatch.setattr(pipeline, "align", lambda *a, **k: known)
    if refused:
        with pytest.raises(Refused, match=r"not found reliably \(score 0\.50; 0\.50 is needed\)"):
            _synthesize(head, trusted_model)
    else:
        assert _synthesize(head, trusted_model).trusted
    assert _synthesize(head, trusted_model, allow_low_confidence=True).trusted is not refused


def test_values_that_are_no_numbers_do_not_reach_the_network(
    head: Volume, trusted_model: Path, monkeypatch: pytest.MonkeyPatch, to_canonical: np.ndarray
) -> None:
    normalise_ultrasound = pipeline.normalise_ultrasound

    def spoiled(*arguments: Any) -> np.ndarray:
        us = normalise_ultrasound(*arguments)
        us[80, 80, 80] = np.nan
        return us

    monkeypatch.setattr(pipeline, "normalise_ultrasound", spoiled)
    monkeypatch.setattr(multiplane, "run_planes", lambda *a, **k: pytest.fail("the network was run"))
    with pytest.raises(Refused, match="cannot be computed with") as caught:
        _synthesize(head, trusted_model, transform=to_canonical)
    assert caught.value.kind == "nan"


def test_a_model_that_gives_no_numbers_is_a_failure(
    head: Volume, trusted_model: Path, monkeypatch: pytest.MonkeyPatch, to_canonical: np.ndarray
) -> None:
    combined = multiplane.combined
    monkeypatch.setattr(multiplane, "combined", lambda *made, **options: combined(*made, **options) * np.float32("nan"))
    with pytest.raises(Failed, match="gave values that are no numbers"):
        _synthesize(head, trusted_model, transform=to_canonical)
