"""Values that stand for no data are distinguished from grey values, and become black."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis import pipeline
from USMRISynthesisLib.ultrasound.fill import without_fill
from USMRISynthesisLib.ultrasound.gate import admit


@pytest.mark.parametrize("fill", [-1000, -1024, -32768, np.nan])
@pytest.mark.parametrize("where", ["corner", "outside"])
def test_a_filled_image_is_admitted_like_the_same_with_black(head, frame, fill, where):
    for volume in (head, frame):
        array = volume.array.astype(np.int16 if fill == fill else np.float32)
        if where == "outside":
            array[volume.array == 0] = fill
        array[..., :3, :3] = fill
        np.testing.assert_array_equal(admit(Volume(array, volume.ijk_to_ras)), admit(volume))


@pytest.mark.parametrize("fill", [-1024.0, np.nan])
def test_the_networks_never_meet_a_fill_value(head, fill, monkeypatch):
    array = head.array.astype(np.float32)
    array[head.array == 0] = fill
    met = []

    def stop(volume, fan, **_):
        met.append(volume.array)
        raise Refused("enough", "Enough.", "Enough.")

    monkeypatch.setattr(pipeline, "align", stop)
    for run in (pipeline.synthesize, pipeline.normalise):
        with pytest.raises(Refused, match="Enough"):
            run(Volume(array, head.ijk_to_ras))
    for values in met:
        np.testing.assert_array_equal(values, head.array)
    assert len(met) == 2


def test_two_fill_values_are_both_taken_out():
    array = np.random.default_rng(0).integers(0, 256, (9, 9, 9)).astype(np.int16)
    filled = array.copy()
    filled[:2], filled[-2:] = -32768, -1024
    result = without_fill(filled)
    np.testing.assert_array_equal(result[2:-2], array[2:-2])
    assert (result[:2] == 0).all() and (result[-2:] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    low=st.integers(-3000, 0),
    span=st.integers(20, 4000),
    dtype=st.sampled_from([np.int16, np.int32, np.float32, np.float64]),
)
def test_an_image_without_fill_is_left_alone(low, span, dtype):
    array = (np.arange(6 * 7 * 8).reshape(6, 7, 8) % span + low).astype(dtype)
    assert without_fill(array) is array


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_types_without_a_sign_have_no_fill_value(dtype):
    array = np.zeros((2, 3, 4), dtype)
    assert without_fill(array) is array


def test_what_is_no_number_inside_the_image_is_still_refused(head):
    for value, at in ((np.nan, (30, 30, 30)), (np.inf, (0, 0, 0)), (-np.inf, (0, 0, 0))):
        array = head.array.astype(np.float32)
        array[at] = value
        with pytest.raises(Refused) as refusal:
            admit(Volume(array, head.ijk_to_ras))
        assert refusal.value.kind == "nan"


@pytest.mark.parametrize("value", [1e40, 1.7e308, -1e30])
def test_values_that_no_image_has_are_refused(frame, value):
    array = frame.array.astype(np.float64)
    array[frame.array == 0] = value
    array[..., 0, 0] = 3
    if value < 0:
        array[..., 1, 1] = -value
    with pytest.raises(Refused, match="no grey values") as refusal:
        admit(Volume(array, frame.ijk_to_ras))
    assert refusal.value.kind == "nan"
