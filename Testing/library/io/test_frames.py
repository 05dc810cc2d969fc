"""Frames in time are distinguished from volumes, and each frame of a tracked sequence has its own place and texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories.image_files import metaimage, nifti, nrrd, placed
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume

FRAMES = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)


def text_of(matrix: np.ndarray) -> str:
    return " ".join(repr(float(one)) for one in matrix.ravel())


def tracked(count: int = 6, *, image_to: str = "", status: str = "OK") -> dict[str, str]:
    """The entries of PLUS for so many frames."""
    lines = {"UltrasoundImageOrientation": "MF", "Kinds": "domain domain list"}
    for index in range(count):
        lines[f"Seq_Frame{index:04d}_ProbeToTrackerTransform"] = text_of(placed(index, (1, 1, 1)))
        lines[f"Seq_Frame{index:04d}_Timestamp"] = str(index * 0.05)
        if image_to:
            lines[f"Seq_Frame{index:04d}_{image_to}"] = text_of(placed(index, (0.24, 0.25, 0.24)))
            lines[f"Seq_Frame{index:04d}_{image_to}Status"] = status
    return lines


def save(tmp_path: Path, name: str, data: bytes) -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.igs.mha", "a.seq.mha", "a.mha"])
def test_a_plus_sequence_is_time_and_not_a_volume(tmp_path, name):
    path = save(tmp_path, name, metaimage(FRAMES, tracked() | {"ElementSpacing": "0.24 0.25 1"}))
    with pytest.raises(Refused, match=r"6 time points.*--frame N, N from 0 to 5") as refusal:
        Volume.read(path)
    assert refusal.value.kind == "time"
    frame = Volume.read(path, frame=3)
    assert frame.is_frame and frame.spacing[:2] == (0.24, 0.25)
    np.testing.assert_array_equal(frame.array[0], FRAMES[3])


def test_each_frame_has_its_own_texts(tmp_path):
    path = save(tmp_path, "a.igs.mha", metaimage(FRAMES, tracked()))
    texts = Volume.read(path, frame=4).metadata
    assert texts["ProbeToTrackerTransform"] == tracked()["Seq_Frame0004_ProbeToTrackerTransform"]
    assert texts["UltrasoundImageOrientation"] == "MF" and texts["Timestamp"] == "0.2"
    assert not any(key.startswith("Seq_Frame") for key in texts)


@pytest.mark.parametrize("image_to", ["ImageToReferenceTransform", "ImageToRasTransform", "ImageToTrackerTransform"])
def test_a_tracked_frame_lies_where_its_transform_puts_it(tmp_path, image_to):
    path = save(tmp_path, "a.igs.mha", metaimage(FRAMES, tracked(image_to=image_to)))
    for index in (0, 5):
        frame = Volume.read(path, frame=index)
        np.testing.assert_allclose(frame.ijk_to_ras, placed(index, (0.24, 0.25, 0.24)))


def test_a_transform_in_mm_takes_the_pixels_of_the_file(tmp_path):
    lines = {key: value for key, value in tracked().items() if "Transform" not in key}
    lines |= {f"Seq_Frame{n:04d}_ImageToReferenceTransform": text_of(placed(n, (1, 1, 1))) for n in range(6)}
    path = save(tmp_path, "a.igs.mha", metaimage(FRAMES, lines | {"ElementSpacing": "0.3 0.4 1"}))
    np.testing.assert_allclose(Volume.read(path, frame=2).ijk_to_ras, placed(2, (0.3, 0.4, 1)))


def test_a_lost_frame_has_the_place_of_the_file(tmp_path):
    lines = tracked(image_to="ImageToReferenceTransform", status="INVALID") | {"ElementSpacing": "0.3 0.4 1"}
    frame = Volume.read(save(tmp_path, "a.igs.mha", metaimage(FRAMES, lines)), frame=2)
    np.testing.assert_allclose(frame.ijk_to_ras, np.diag([-0.3, -0.4, 1, 1]))
    assert frame.metadata["ImageToReferenceTransformStatus"] == "INVALID"


def test_a_reconstruction_with_the_entries_of_one_frame_stays_a_volume(tmp_path):
    for lines in (tracked(1), {"Kinds": "domain domain list"}):
        path = save(tmp_path, "a.mha", metaimage(FRAMES, lines | {"ElementSpacing": "0.3 0.3 0.5"}))
        assert Volume.read(path).shape == (6, 4, 5)
    fields = {"space": "LPS", "space directions": "(1,0,0) (0,1,0) (0,0,1)", "kinds": "domain domain list"}
    assert Volume.read(save(tmp_path, "a.nrrd", nrrd(FRAMES, fields))).shape == (6, 4, 5)


def test_a_sequence_as_nrrd_is_time_too(tmp_path):
    fields = {"space": "LPS", "space directions": "(1,0,0) (0,1,0) (0,0,1)", "kinds": "domain domain list"}
    entries = "\n".join(f"{key}:={value}" for key, value in tracked().items() if key.startswith("Seq"))
    data = nrrd(FRAMES, fields).replace(b"encoding: raw", b"encoding: raw\n" + entries.encode())
    path = save(tmp_path, "a.igs.nrrd", data)
    with pytest.raises(Refused, match="6 time points"):
        Volume.read(path)
    assert Volume.read(path, frame=2).metadata["Timestamp"] == "0.1"


FLAT, SOLID = np.stack([FRAMES[0]] * 7), np.stack([FRAMES] * 7)
FLAT += np.arange(7, dtype=np.uint8)[:, None, None]
SOLID += np.arange(7, dtype=np.uint8)[:, None, None, None]
D3 = "(1,0,0) (0,2,0) (0,0,3)"


@pytest.mark.parametrize(
    "array, kinds, directions, expected",
    [
        (SOLID, "domain domain domain time", D3 + " none", SOLID[2]),
        (SOLID, "domain domain domain list", D3 + " none", SOLID[2]),
        (SOLID, "space space space ???", D3 + " none", SOLID[2]),
        (np.moveaxis(SOLID, 0, -1), "vector domain domain domain", "none " + D3, SOLID[2]),
        (np.moveaxis(SOLID, 0, -1), "list domain domain domain", "none " + D3, SOLID[2]),
        (FLAT, "domain domain list", "(1,0,0) (0,2,0) none", FLAT[2:3]),
        (FLAT, "domain domain time", "(1,0,0) (0,2,0) none", FLAT[2:3]),
        (np.moveaxis(FLAT, 0, -1), "list domain domain", "none (1,0,0) (0,2,0)", FLAT[2:3]),
    ],
)
def test_the_kinds_of_nrrd_axes(tmp_path, array, kinds, directions, expected):
    fields = {"space": "LPS", "kinds": kinds, "space directions": directions, "space origin": "(1,2,3)"}
    path = save(tmp_path, "a.nrrd", nrrd(array, fields))
    with pytest.raises(Refused, match="7 time points"):
        Volume.read(path)
    chosen = Volume.read(path, frame=2)
    np.testing.assert_array_equal(chosen.array, expected)
    assert chosen.spacing[:2] == (1, 2) and chosen.ijk_to_ras[:3, 3].tolist() == [-1, -2, 3]


def test_two_axes_in_space_are_a_frame_in_its_place(tmp_path):
    matrix = placed(3)
    columns = " ".join("(" + ",".join(repr(float(one)) for one in column) + ")" for column in matrix[:3, :2].T)
    fields = {"space": "RAS", "space directions": columns, "space origin": "(1,2,3)"}
    frame = Volume.read(save(tmp_path, "a.nrrd", nrrd(FRAMES[0], fields)))
    np.testing.assert_allclose(frame.ijk_to_ras[:3, :2], matrix[:3, :2])
    assert frame.is_frame and abs(np.linalg.det(frame.ijk_to_ras[:3, :3] / frame.spacing)) > 0.999


@pytest.mark.parametrize("frame", [-1, 7, 10**20])
def test_frames_that_are_not_there_are_refused(tmp_path, frame):
    fields = {"kinds": "domain domain domain time", "space directions": D3 + " none", "space": "LPS"}
    path = save(tmp_path, "a.nrrd", nrrd(SOLID, fields))
    with pytest.raises(Refused, match="no frame"):
        Volume.read(path, frame=frame)


def test_only_the_chosen_time_point_is_read(tmp_path, monkeypatch):
    """A long film needs the memory of one volume."""
    data = nifti(SOLID.reshape(42, 4, 5), placed(1), dims=(4, 5, 4, 6, 7, 1, 1, 1))
    path = save(tmp_path, "a.nii", data)
    made: list[int] = []
    empty = np.empty
    monkeypatch.setattr("USMRISynthesisLib.io.voxels.np.empty", lambda n, **o: made.append(n) or empty(n, **o))
    np.testing.assert_array_equal(Volume.read(path, frame=6).array, SOLID[6])
    assert made == [120]


def test_a_field_of_vectors_is_no_image(tmp_path):
    field = np.random.default_rng(0).normal(size=(3, 4, 5, 3)).astype(np.float32)
    fields = {"space": "LPS", "kinds": "vector domain domain domain", "space directions": "none " + D3}
    with pytest.raises(Refused) as refusal:
        Volume.read(save(tmp_path, "a.nrrd", nrrd(field, fields)))
    assert refusal.value.kind == "colour" and "3 values" in refusal.value.message


def chained(**statuses: str) -> dict[str, str]:
    """A frame whose place is given step by step, as PLUS records: calibration, probe, and reference to the tracker."""
    lines = {"Kinds": "domain domain list", "ElementSpacing": "0.3 0.4 1"}
    for index in range(3):
        head = f"Seq_Frame{index:04d}_"
        lines[f"{head}ImageToProbeTransform"] = text_of(placed(90, (0.24, 0.25, 0.24)))
        lines[f"{head}ProbeToTrackerTransform"] = text_of(placed(index, (1, 1, 1)))
        lines[f"{head}ReferenceToTrackerTransform"] = text_of(placed(50 + index, (1, 1, 1)))
        for key, status in statuses.items():
            lines[f"{head}{key}TransformStatus"] = status
    return lines


def test_a_place_given_step_by_step_is_put_together_as_plus_does(tmp_path):
    path = save(tmp_path, "a.igs.mha", metaimage(FRAMES[:3], chained()))
    for index in range(3):
        probe = placed(index, (1, 1, 1)) @ placed(90, (0.24, 0.25, 0.24))
        expected = np.linalg.inv(placed(50 + index, (1, 1, 1))) @ probe
        np.testing.assert_allclose(Volume.read(path, frame=index).ijk_to_ras, expected, atol=1e-9)


def test_a_lost_reference_leaves_the_trackers_space_and_a_lost_probe_the_files_place(tmp_path):
    path = save(tmp_path, "a.igs.mha", metaimage(FRAMES[:3], chained(ReferenceToTracker="MISSING")))
    expected = placed(2, (1, 1, 1)) @ placed(90, (0.24, 0.25, 0.24))
    np.testing.assert_allclose(Volume.read(path, frame=2).ijk_to_ras, expected, atol=1e-9)
    path = save(tmp_path, "a.igs.mha", metaimage(FRAMES[:3], chained(ProbeToTracker="OUT_OF_VIEW")))
    np.testing.assert_allclose(Volume.read(path, frame=2).ijk_to_ras, np.diag([-0.3, -0.4, 1, 1]))


@pytest.mark.parametrize("orientation, i, j", [("MF", 0, 0), ("UF", 4, 0), ("MN", 0, 3), ("UN", 4, 3)])
def test_a_picture_stored_in_another_orientation_lies_in_the_same_place(tmp_path, orientation, i, j):
    lines = tracked(image_to="ImageToReferenceTransform") | {"UltrasoundImageOrientation": orientation}
    frame = Volume.read(save(tmp_path, "a.igs.mha", metaimage(FRAMES, lines)), frame=1)
    # The first stored pixel is that of the image in orientation MF from the other end.
    np.testing.assert_allclose(frame.ijk_to_ras @ [0, 0, 0, 1], placed(1, (0.24, 0.25, 0.24)) @ [i, j, 0, 1], atol=1e-9)


def test_a_frame_that_the_recording_lost_is_refused(tmp_path):
    lines = tracked(image_to="ImageToReferenceTransform") | {"Seq_Frame0002_ImageStatus": "INVALID"}
    path = save(tmp_path, "a.igs.mha", metaimage(FRAMES, lines))
    with pytest.raises(Refused, match=r"Frame 2 of a\.igs\.mha is marked as invalid.*--frame N") as refusal:
        Volume.read(path, frame=2)
    assert refusal.value.kind == "frame-status" and Volume.read(path, frame=3).is_frame


def test_the_frames_of_every_kind_of_file_are_counted(tmp_path):
    from USMRISynthesisLib.io.reading import count_frames

    assert count_frames(save(tmp_path, "a.igs.mha", metaimage(FRAMES, tracked()))) == 6
    fields = {"space": "LPS", "kinds": "list domain domain domain", "space directions": f"none {D3}"}
    slicers = save(tmp_path, "a.seq.nrrd", nrrd(np.moveaxis(SOLID, 0, -1), fields))
    assert count_frames(slicers) == 7
    for frame in (0, 6):
        np.testing.assert_array_equal(Volume.read(slicers, frame=frame).array, SOLID[frame])
    still = {"space": "LPS", "kinds": "domain domain domain", "space directions": D3}
    assert count_frames(save(tmp_path, "b.nrrd", nrrd(FRAMES, still))) == 1
