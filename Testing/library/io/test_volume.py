"""Volumes keep their place, their values and their label through every format, or are refused in a sentence."""

import gzip
import os

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.io.volume import VOLUME_FORMATS, Volume

LABEL = "SYNTHETIC - not for diagnosis"


def oblique(seed: int, spacing=(0.3, 0.7, 2.1), left_handed=False, shear=0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    axes[:, 0] *= np.sign(np.linalg.det(axes)) * (-1 if left_handed else 1)
    slant = np.eye(3)
    slant[0, 1] = shear
    matrix = np.eye(4)
    matrix[:3, :3] = axes @ slant * spacing
    matrix[:3, 3] = rng.uniform(-200, 200, 3)
    return matrix


def volume(shape=(4, 5, 6), dtype=np.int16, matrix=None) -> Volume:
    array = (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)
    return Volume(array, oblique(1) if matrix is None else matrix)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    left=st.booleans(),
    shear=st.sampled_from([0.0, 1e-4, 0.05]),
    spacing=st.tuples(*[st.floats(0.05, 6.0)] * 3),
    ending=st.sampled_from(VOLUME_FORMATS),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.float32, np.float64]),
)
def test_geometry_and_values_survive_every_format(tmp_path, seed, left, shear, spacing, ending, shape, dtype):
    original = volume(shape, dtype, oblique(seed, spacing, left, shear))
    original.write(tmp_path / f"v{ending}")
    back = Volume.read(tmp_path / f"v{ending}")
    np.testing.assert_allclose(back.ijk_to_ras, original.ijk_to_ras, atol=5e-5)
    np.testing.assert_array_equal(back.array, original.array)
    assert back.array.dtype == dtype
    np.testing.assert_allclose(back.spacing, original.spacing, rtol=1e-5)  # through a single slice, too


def test_a_compressed_file_is_not_mixed_up_with_its_uncompressed_namesake(tmp_path):
    Volume(np.full((2, 3, 4), 1, np.int16), np.eye(4)).write(tmp_path / "v.nii")
    Volume(np.full((2, 3, 4), 2, np.int16), np.eye(4)).write(tmp_path / "v.nii.gz")
    assert (Volume.read(tmp_path / "v.nii").array == 1).all()
    assert (Volume.read(tmp_path / "v.nii.gz").array == 2).all()


@pytest.mark.parametrize("ending", VOLUME_FORMATS)
def test_label_is_written_to_every_format(tmp_path, ending):
    path = tmp_path / f"v{ending}"
    volume().write(path, metadata={"Comment": LABEL})
    assert Volume.read(path).metadata["Comment"] == LABEL
    raw = b"".join(
        gzip.decompress(part.read_bytes()) if ending == ".nii.gz" else part.read_bytes() for part in tmp_path.iterdir()
    )
    assert LABEL.encode() in raw


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_all_metadata_survives_nrrd_and_metaimage(tmp_path, ending):
    provenance = '{"model": "a", "planes": "axial", "sha256": "' + "0" * 2000 + '"}'
    source = Volume(volume().array, oblique(2), {"origin": "one\ntwo"})
    source.write(tmp_path / f"v{ending}", metadata={"provenance": provenance})
    metadata = Volume.read(tmp_path / f"v{ending}").metadata
    assert metadata["provenance"] == provenance
    assert metadata["origin"] == "one two"


def test_lps_files_become_ras(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(image, str(tmp_path / "v.nrrd"))
    expected = np.array([[-1, 0, 0, -1], [0, -1, 0, -2], [0, 0, 1, 3], [0, 0, 0, 1]])
    np.testing.assert_allclose(Volume.read(tmp_path / "v.nrrd").ijk_to_ras, expected)


def test_simpleitk_agrees_with_what_is_written(tmp_path):
    original = volume(matrix=oblique(3))
    original.write(tmp_path / "v.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "v.nii.gz"))
    lps = np.array(image.TransformContinuousIndexToPhysicalPoint((4.0, 3.0, 2.0)))
    np.testing.assert_allclose(lps * (-1, -1, 1), (original.ijk_to_ras @ (4, 3, 2, 1))[:3], atol=1e-4)


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_two_dimensional_file_is_a_frame(tmp_path, ending):
    image = sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    image.SetSpacing((0.2, 0.3))
    sitk.WriteImage(image, str(tmp_path / f"f{ending}"))
    frame = Volume.read(tmp_path / f"f{ending}")
    assert frame.shape == (1, 3, 4) and frame.is_frame
    np.testing.assert_allclose(frame.spacing[:2], (0.2, 0.3), rtol=1e-6)


def test_picture_needs_a_pixel_size(tmp_path):
    path = tmp_path / "f.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4)), str(path))
    with pytest.raises(Refused, match=r"without a pixel size.*--pixel-size MM"):
        Volume.read(path)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(Refused, match="positive number"):
            Volume.read(path, pixel_size_mm=wrong)
    frame = Volume.read(path, pixel_size_mm=0.25)
    np.testing.assert_allclose(frame.spacing[:2], 0.25)
    np.testing.assert_allclose(frame.extent_mm[:2], (1.0, 0.75))


def test_pixel_size_does_not_apply_to_a_volume(tmp_path):
    volume().write(tmp_path / "v.nrrd")
    with pytest.raises(Refused, match="does not apply"):
        Volume.read(tmp_path / "v.nrrd", pixel_size_mm=0.3)


@pytest.mark.parametrize("name", ["c.png", "c.nrrd", "c.mha"])
def test_colour_is_refused(tmp_path, name):
    array = np.random.default_rng(0).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / name))
    with pytest.raises(Refused, match=r"colour.*greyscale") as refusal:
        Volume.read(tmp_path / name, pixel_size_mm=0.3)
    assert refusal.value.kind == "colour"


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_time_points_are_chosen_with_frame(tmp_path, ending):
    array = np.arange(3 * 4 * 5 * 6, dtype=np.int16).reshape(3, 4, 5, 6)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(tmp_path / f"t{ending}"))
    with pytest.raises(Refused, match=r"3 time points.*--frame N"):
        Volume.read(tmp_path / f"t{ending}")
    with pytest.raises(Refused, match="no frame 3"):
        Volume.read(tmp_path / f"t{ending}", frame=3)
    np.testing.assert_array_equal(Volume.read(tmp_path / f"t{ending}", frame=1).array, array[1])


def test_slicer_sequence_is_time_not_colour(tmp_path):
    voxels = np.arange(2 * 3 * 4 * 5, dtype=np.uint8)
    header = (
        "NRRD0004\ntype: uint8\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 5 4 3\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,1)\nkinds: list domain domain domain\n"
        "encoding: raw\nspace origin: (0,0,0)\n\n"
    )
    (tmp_path / "s.seq.nrrd").write_bytes(header.encode() + voxels.tobytes())
    with pytest.raises(Refused, match="2 time points"):
        Volume.read(tmp_path / "s.seq.nrrd")
    frame = Volume.read(tmp_path / "s.seq.nrrd", frame=1)
    np.testing.assert_array_equal(frame.array.ravel(), voxels[1::2])


@pytest.mark.parametrize("ending", VOLUME_FORMATS)
@pytest.mark.parametrize("damage", ["empty", "noise", "truncated"])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, ending, damage):
    path = tmp_path / f"v{ending}"
    rng = np.random.default_rng(0)
    Volume(rng.integers(0, 1000, (20, 20, 20), dtype=np.int16), oblique(1)).write(path)
    parts = sorted(tmp_path.iterdir(), key=lambda part: part == path)
    data = {"empty": b"", "noise": rng.bytes(500)}.get(damage)
    parts[-1 if damage != "truncated" else 0].write_bytes(
        data if data is not None else parts[0].read_bytes()[: parts[0].stat().st_size // 2]
    )
    with pytest.raises(Refused) as refusal:
        Volume.read(path)
    assert refusal.value.kind == "unreadable"
    assert "itk" not in str(refusal.value).lower() and "\n" not in str(refusal.value)


def test_unknown_formats_name_the_known_ones(tmp_path):
    with pytest.raises(Refused, match="no file"):
        Volume.read(tmp_path / "nothing.nrrd")
    for name, text in (("a.txt", r"\.nrrd"), ("a.vol", "Kretz.*SlicerHeart")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(Refused, match=text):
            Volume.read(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
@pytest.mark.parametrize("ending", VOLUME_FORMATS)
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, ending):
    import resource

    path = tmp_path / f"v{ending}"
    volume().write(path)
    before = {part.name: part.read_bytes() for part in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(Failed, match="free space"):
            Volume(np.random.default_rng(0).integers(0, 255, (60, 60, 60), np.uint8), np.eye(4)).write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {part.name: part.read_bytes() for part in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "ending, voxels", [(".nhdr", "v.raw"), (".mhd", "v.raw"), (".mhd", "v.zraw"), (".nhdr", "v.raw.gz")]
)
def test_the_voxel_file_of_another_image_is_not_replaced(tmp_path, ending, voxels):
    (tmp_path / voxels).write_bytes(b"another's")
    with pytest.raises(Failed, match="failed"):
        volume().write(tmp_path / f"v{ending}", compress=voxels != "v.raw")
    assert os.listdir(tmp_path) == [voxels] and (tmp_path / voxels).read_bytes() == b"another's"


def test_write_errors_have_a_remedy(tmp_path):
    with pytest.raises(Failed, match=r"Use one of these endings.*\.nrrd"):
        volume().write(tmp_path / "v.png")
    with pytest.raises(Failed, match="does not exist"):
        volume().write(tmp_path / "nowhere" / "v.nrrd")


def test_masks_and_half_precision_are_written(tmp_path):
    Volume(np.eye(4, dtype=bool)[None], np.eye(4)).write(tmp_path / "m.nrrd")
    assert Volume.read(tmp_path / "m.nrrd").array.sum() == 4
    Volume(np.ones((2, 2, 2), np.float16), np.eye(4)).write(tmp_path / "h.nrrd")
    assert Volume.read(tmp_path / "h.nrrd").array.dtype == np.float32


@pytest.mark.parametrize(
    "array, matrix",
    [
        (np.zeros((2, 2)), np.eye(4)),
        (np.zeros((2, 2, 2)), np.eye(3)),
        (np.zeros((2, 2, 2)), np.diag([1, 1, 0, 1])),
        (np.zeros((2, 2, 2)), np.full((4, 4), np.nan)),
    ],
)
def test_impossible_volumes_cannot_be_made(array, matrix):
    with pytest.raises(ValueError):
        Volume(array, matrix)


def test_errors_read_as_message_and_remedy():
    assert str(Refused("kind", "It is wrong.", "Do this.")) == "It is wrong. Do this."
    assert Cancelled().kind == "cancelled"
