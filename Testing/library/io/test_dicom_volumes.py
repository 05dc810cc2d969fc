"""DICOM volumes: series of slices, enhanced ultrasound, Philips' private forms; oblique, anisotropic, left-handed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from factories.dicom import MR, SECRETS, dataset, enhanced, save, series  # noqa: E402
from factories.image_files import placed  # noqa: E402
from USMRISynthesisLib.errors import Refused  # noqa: E402
from USMRISynthesisLib.io.volume import Volume  # noqa: E402

RNG = np.random.default_rng(0)
SIGNED = RNG.integers(-500, 1500, (6, 7, 9)).astype(np.int16)
GREY = RNG.integers(0, 255, (6, 7, 9), dtype=np.uint8)
SIDES = [(0.7, 0.9, 1.3), (0.5, 0.5, 3.0)]


def mirrored(array: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with its slices counted from the other end."""
    back = np.diag([1.0, 1, -1, 1])
    back[2, 3] = len(array) - 1
    return array[::-1], matrix @ back


def as_simpleitk(files: list[Path], tmp_path: Path) -> Volume:
    """The series as ITK reads it, which Slicer's scalar volumes go by."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(files[0].parent)))
    sitk.WriteImage(reader.Execute(), str(tmp_path / "itk.nrrd"))
    return Volume.read(tmp_path / "itk.nrrd")


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("left_handed", [False, True])
def test_a_series_has_the_voxels_and_the_place_that_simpleitk_reads(left_handed, sides, tmp_path):
    matrix = placed(3, sides, left_handed=left_handed)
    files = series(tmp_path / "study", SIGNED, matrix)
    ours, itk = Volume.read(tmp_path / "study"), as_simpleitk(files, tmp_path)
    np.testing.assert_array_equal(ours.array, itk.array)
    np.testing.assert_allclose(ours.ijk_to_ras, itk.ijk_to_ras, atol=1e-5)
    # Slices are ordered along their normal: of a left-handed volume they come from the other end.
    array, expected = mirrored(SIGNED, matrix) if left_handed else (SIGNED, matrix)
    np.testing.assert_array_equal(ours.array, array)
    np.testing.assert_allclose(ours.ijk_to_ras, expected, atol=1e-5)


def test_the_rescale_slope_gives_the_values_that_simpleitk_reads(tmp_path):
    files = series(tmp_path / "study", SIGNED, placed(1), RescaleSlope="0.5", RescaleIntercept="-20")
    np.testing.assert_allclose(Volume.read(tmp_path / "study").array, as_simpleitk(files, tmp_path).array)


def test_the_slices_files_are_known_and_nothing_else(tmp_path):
    files = series(tmp_path / "study", SIGNED, placed(2))
    read = Volume.read(tmp_path / "study")
    assert sorted(read.files) == sorted(files) and read.metadata == {"Modality": "MR"}
    assert not any(secret in str(read) for secret in SECRETS)


def test_slices_in_a_place_are_time_points(tmp_path):
    uid = pydicom.uid.generate_uid()
    for time in range(3):
        series(
            tmp_path / "study" / str(time),
            SIGNED + time,
            placed(2),
            SeriesInstanceUID=uid,
            TemporalPositionIdentifier=time + 1,
        )
    with pytest.raises(Refused, match="study holds 3 time points"):
        Volume.read(tmp_path / "study")
    for time in range(3):
        np.testing.assert_array_equal(Volume.read(tmp_path / "study", frame=time).array, SIGNED + time)


def test_a_tilted_gantry_is_a_sheared_volume(tmp_path):
    matrix = placed(4, (0.7, 0.9, 1.3))
    matrix[:3, 2] += 0.3 * matrix[:3, 1]
    series(tmp_path / "study", SIGNED, matrix)
    np.testing.assert_allclose(Volume.read(tmp_path / "study").ijk_to_ras, matrix, atol=1e-5)


def test_a_missing_slice_is_refused(tmp_path):
    files = series(tmp_path / "study", SIGNED, placed(2))
    files[2].unlink()
    with pytest.raises(Refused, match=r"study are not evenly spaced \(1.3 to 2.6 mm apart\), as where one is missing"):
        Volume.read(tmp_path / "study")


def test_a_slice_twice_is_refused(tmp_path):
    files = series(tmp_path / "study", SIGNED, placed(2))
    (tmp_path / "study" / "again").write_bytes(files[2].read_bytes())
    with pytest.raises(Refused, match="some places have more than others"):
        Volume.read(tmp_path / "study")


def test_one_slice_is_a_frame_in_its_place(tmp_path):
    matrix = placed(5)
    files = series(tmp_path / "study", SIGNED, matrix)
    frame = Volume.read(files[3])
    np.testing.assert_array_equal(frame.array[0], SIGNED[3])
    np.testing.assert_allclose(frame.ijk_to_ras[:, 3], matrix @ [0, 0, 3, 1], atol=1e-5)
    np.testing.assert_allclose(frame.ijk_to_ras[:3, :3], matrix[:3, :3], atol=1e-5)


@pytest.mark.parametrize("patient", [False, True])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("left_handed", [False, True])
def test_an_enhanced_ultrasound_volume_lies_where_its_frames_do(left_handed, sides, patient, tmp_path):
    matrix = placed(7, sides, left_handed=left_handed)
    path = save(enhanced(GREY, matrix, patient=patient), tmp_path / "us.dcm")
    read = Volume.read(path)
    array, expected = mirrored(GREY, matrix) if left_handed else (GREY, matrix)
    np.testing.assert_array_equal(read.array, array)
    np.testing.assert_allclose(read.ijk_to_ras, expected, atol=1e-5)


def test_volumes_in_time_are_time_points(tmp_path):
    both = np.concatenate([GREY, 255 - GREY])
    path = save(enhanced(both, placed(7), times=2), tmp_path / "us.dcm")
    with pytest.raises(Refused, match="2 time points"):
        Volume.read(path)
    np.testing.assert_array_equal(Volume.read(path, frame=1).array, 255 - GREY)


def test_an_ultrasound_volume_without_its_places_is_refused(tmp_path):
    one = enhanced(GREY, placed(7))
    del one.PerFrameFunctionalGroupsSequence[2].PlanePositionVolumeSequence
    with pytest.raises(Refused, match=r"does not state where its slices lie.*SlicerHeart"):
        Volume.read(save(one, tmp_path / "us.dcm"))


def test_doppler_beside_the_tissue_is_refused(tmp_path):
    one = enhanced(GREY, placed(7))
    one.SharedFunctionalGroupsSequence[0].ImageDataTypeSequence[0].DataType = "FLOW_POWER"
    with pytest.raises(Refused, match="holds flow power beside or instead of the tissue"):
        Volume.read(save(one, tmp_path / "us.dcm"))


def cartesian(tmp_path: Path, **fields: object) -> Path:
    """As Philips' QLAB exports: its own class, the voxels at the end of the file."""
    one = dataset("1.2.840.113543.6.6.1.3.10002", np.concatenate([GREY, 255 - GREY]).reshape(2, -1, 9))
    one.Rows, one.Columns, one.NumberOfFrames = 7, 9, 2
    one.PhysicalDeltaX, one.PhysicalDeltaY = 0.05, 0.06
    one.PhysicalUnitsXDirection = one.PhysicalUnitsYDirection = 3
    one.add_new(0x30010010, "LO", "Philips3D")
    one.add_new(0x30011001, "UL", 6)
    one.add_new(0x30011003, "FD", 0.07)
    for key, value in fields.items():
        setattr(one, key, value)
    return save(one, tmp_path / "us.dcm")


def test_a_philips_cartesian_volume_is_read(tmp_path):
    path = cartesian(tmp_path)
    with pytest.raises(Refused, match="2 time points"):
        Volume.read(path)
    first, second = (Volume.read(path, frame=frame) for frame in (0, 1))
    np.testing.assert_array_equal(first.array, GREY)
    np.testing.assert_array_equal(second.array, 255 - GREY)
    np.testing.assert_allclose(first.spacing, (0.5, 0.6, 0.7))
    with pytest.raises(Refused, match=r"voxel size it does not state as expected, which is not read here.*SlicerHeart"):
        Volume.read(cartesian(tmp_path, PhysicalUnitsXDirection=4), frame=0)
    with pytest.raises(Refused, match="cut short"):
        Volume.read(cartesian(tmp_path, NumberOfFrames=50), frame=0)


def test_a_philips_affiniti_volume_is_read_where_it_is_not_compressed(tmp_path):
    one = dataset(MR, np.zeros((4, 4), np.uint8), Modality="US")
    one.add_new(0x200D0030, "LO", "Philips US Imaging DD 033")
    one.add_new(0x200D0033, "LO", "Philips US Imaging DD 036")
    one.add_new(0x200D3301, "LO", ["9", "7", "6"])
    one.add_new(0x200D3303, "LO", ["0.5", "0.6", "0.7"])
    one.add_new(0x200D300B, "OB", GREY.tobytes())
    read = Volume.read(save(one, tmp_path / "us.dcm"))
    np.testing.assert_array_equal(read.array, GREY)
    np.testing.assert_allclose(read.spacing, (0.5, 0.6, 0.7))
    one[0x200D300B].value = GREY.tobytes()[:100]
    with pytest.raises(Refused, match=r"Philips volume that is compressed.*SlicerHeart"):
        Volume.read(save(one, tmp_path / "us.dcm"))


def test_other_private_volumes_name_slicerheart(tmp_path):
    kretz = dataset(MR, np.zeros((4, 4), np.uint8), Manufacturer="GE Healthcare")
    kretz.add_new(0x7FE10011, "LO", "KRETZ_US")
    kretz.add_new(0x7FE11101, "OB", b"KRETZFILE 1.0   ")
    for one, words in (
        (kretz, "a GE Voluson volume"),
        (dataset("1.2.840.113619.4.2", np.zeros((4, 4), np.uint8)), "only its manufacturer defines"),
    ):
        with pytest.raises(Refused, match=words) as refusal:
            Volume.read(save(one, tmp_path / "us.dcm"))
        assert refusal.value.kind == "private" and "SlicerHeart" in refusal.value.remedy
    del kretz.PixelData, kretz.Rows  # as a file without a preview
    with pytest.raises(Refused, match="a GE Voluson volume"):
        Volume.read(save(kretz, tmp_path / "us.dcm"))
