"""What the bundled network says of real frames of patients that it has not seen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib.alignment.frame.admission import check_content, classify_frame
from USMRISynthesisLib.alignment.frame.content import NO_BRAIN, FrameContent
from USMRISynthesisLib.datasets.frame_content import FILTERS, ContentRow, content_rows, read_frame
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.real.negatives import random_sector
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.fan import find_fan

DATA = Path(os.environ.get("USMRI_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
SAMPLES = Path(__file__).resolve().parents[3] / "Resources" / "SampleData"
needs_data = pytest.mark.skipif(not (DATA / "not-brain").is_dir(), reason="the shared data are not here")


def content_of(volume: Volume) -> FrameContent:
    found = classify_frame(volume, find_fan(volume.array, volume.spacing))
    assert found is not None  # the model is there
    return found


@pytest.fixture(scope="module")
def held_rows() -> list[ContentRow]:
    return [row for row in content_rows(DATA) if row.split == "test"]


def some(rows: list[ContentRow], count: int, **what: str) -> list[ContentRow]:
    """At most so many rows, evenly chosen, with these values."""
    found = [row for row in rows if all(getattr(row, name) == value for name, value in what.items())]
    return found[:: max(1, len(found) // count)][:count]


def accepted_share(rows: list[ContentRow]) -> float:
    return float(np.mean([content_of(read_frame(row, even=False)).shows_brain for row in rows]))


def test_the_sample_frame_shows_a_brain_and_speckle_alone_does_not() -> None:
    assert content_of(Volume.read(SAMPLES / "fetal-head-hc18.nrrd")).shows_brain
    assert [content_of(random_sector(seed)).answer for seed in range(6)].count(NO_BRAIN) >= 5


@needs_data
@pytest.mark.parametrize("source", ["hc18", "fetal-planes"])
def test_brain_frames_of_unseen_patients_are_accepted(held_rows: list[ContentRow], source: str) -> None:
    assert accepted_share(some(held_rows, 30, source=source)) >= 0.9


@needs_data
@pytest.mark.parametrize("part", ["abdomen", "thorax", "femur"])
def test_frames_of_the_body_of_unseen_patients_are_refused(held_rows: list[ContentRow], part: str) -> None:
    assert accepted_share(some(held_rows, 20, part=part)) <= 0.15


@needs_data
@pytest.mark.parametrize("how", sorted(FILTERS))
def test_a_filtered_brain_frame_passes_without_speckle(held_rows: list[ContentRow], how: str) -> None:
    rows, passed = some(held_rows, 8, source="fetal-planes"), 0
    for row in rows:
        volume = read_frame(row, even=False)
        smooth = volume.with_values(FILTERS[how](FILTERS[how](volume.array[0]))[None])
        try:
            check_content(smooth, find_fan(smooth.array, smooth.spacing), warn=str)
            passed += 1
        except Refused:
            pass
    assert passed >= len(rows) - 1


@needs_data
def test_most_slices_of_mr_are_refused(held_rows: list[ContentRow]) -> None:
    refused = 0
    rows = some(held_rows, 16, source="mr")
    for row in rows:
        volume = read_frame(row, even=False)
        try:
            check_content(volume, find_fan(volume.array, volume.spacing), warn=str)
        except Refused:
            refused += 1
    assert refused >= 0.8 * len(rows)
