"""The geometry of image files is read as ITK reads it, or the file is refused in a sentence that says why."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from factories.image_files import metaimage, nifti, nrrd, placed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import VOLUME_FORMATS, Volume

ARRAY = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXES = "(0.7,0,0) (0,0.9,0) (0,0,1.3)"


def saved(tmp_path: Path, name: str, data: bytes) -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(array, ijk_to_ras) by SimpleITK."""
    image = sitk.ReadImage(str(path))
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), LPS_RAS @ lps


def refusal(path: Path, **options) -> Refused:
    with pytest.raises(Refused) as caught:
        Volume.read(path, **options)
    assert "\n" not in str(caught.value) and caught.value.remedy.endswith(".")
    return caught.value


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    units=st.sampled_from([0, 2, 4]),
    left=st.booleans(),
    sides=st.tuples(*[st.floats(0.1, 5)] * 3),
)
def test_a_nifti_lies_where_itk_and_slicer_have_it(tmp_path, seed, codes, units, left, sides):
    qform = placed(seed, sides, left_handed=left)
    sform = placed(seed + 1, sides, left_handed=left)
    path = saved(tmp_path, "v.nii", nifti(ARRAY, qform, sform, codes=codes, units=units))
    array, matrix = by_itk(path)
    volume = Volume.read(path)
    np.testing.assert_allclose(volume.ijk_to_ras, matrix, atol=1e-4)
    np.testing.assert_array_equal(volume.array, array)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    left=st.booleans(),
    ending=st.sampled_from(VOLUME_FORMATS),
    compress=st.booleans(),
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]),
    sides=st.tuples(*[st.floats(0.05, 9)] * 3),
)
def test_itk_reads_what_is_written_and_the_other_way_round(tmp_path, seed, left, ending, compress, dtype, sides):
    volume = Volume(ARRAY.astype(dtype), placed(seed, sides, left_handed=left), {"Comment": "of ours"})
    name = f"v{seed}{ending}"
    volume.write(tmp_path / name, compress=compress)
    array, matrix = by_itk(tmp_path / name)
    np.testing.assert_allclose(matrix, volume.ijk_to_ras, atol=1e-4)
    np.testing.assert_array_equal(array, volume.array)
    assert array.dtype == volume.array.dtype
    image = sitk.ReadImage(str(tmp_path / name))
    sitk.WriteImage(image, str(tmp_path / f"itk{name}"), useCompression=compress)
    back = Volume.read(tmp_path / f"itk{name}")
    np.testing.assert_allclose(back.ijk_to_ras, volume.ijk_to_ras, atol=1e-4)
    np.testing.assert_array_equal(back.array, volume.array)
    for path in tmp_path.iterdir():
        path.unlink()


@pytest.mark.parametrize("units, mm", [(1, 1000.0), (2, 1.0), (3, 0.001)])
def test_nifti_units_are_metres_and_microns_too(tmp_path, units, mm):
    matrix = placed(3)
    scaled = matrix.copy()
    scaled[:3] /= mm
    for version in (1, 2):
        path = saved(tmp_path, "v.nii", nifti(ARRAY, scaled, units=units, version=version))
        np.testing.assert_allclose(Volume.read(path).ijk_to_ras, matrix, rtol=1e-4, atol=1e-4)


def test_an_sform_of_unit_vectors_takes_its_size_from_pixdim(tmp_path):
    matrix, bare = placed(4, (0.8,) * 3), placed(4, (1.0,) * 3)
    path = saved(tmp_path, "v.nii", nifti(ARRAY, matrix, bare, codes=(0, 1)))
    np.testing.assert_allclose(Volume.read(path).ijk_to_ras, matrix, atol=1e-5)


def test_an_sform_of_another_scale_is_refused(tmp_path):
    path = saved(tmp_path, "v.nii", nifti(ARRAY, placed(4, (0.8,) * 3), placed(4, (1.2,) * 3), codes=(0, 1)))
    error = refusal(path)
    assert error.kind == "geometry" and "1.2 x 1.2 x 1.2 mm" in error.message and "0.8 x 0.8 x 0.8 mm" in error.message


@pytest.mark.parametrize("codes", [(1, 2), (3, 2), (0, 2), (2, 0), (1, 1)])
@pytest.mark.parametrize("units", [2, 3])
def test_a_result_carries_both_placements_of_its_source(tmp_path, codes, units):
    qform, sform = placed(5), placed(6)
    scale = 1000.0 if units == 3 else 1.0
    qform[:3] *= scale
    sform[:3] *= scale
    data = nifti(ARRAY, qform, sform, codes=codes, units=units)
    source = Volume.read(saved(tmp_path, "us.nii", data))
    source.with_values(np.zeros((3, 4, 5), np.int16)).write(tmp_path / "mr.nii")
    written = (tmp_path / "mr.nii").read_bytes()
    assert written[252:328] == data[252:328] and written[76:92] == data[76:92] and written[123] == data[123]
    np.testing.assert_allclose(Volume.read(tmp_path / "mr.nii").ijk_to_ras, source.ijk_to_ras)


def test_another_place_drops_the_placements_of_the_source(tmp_path):
    source = saved(tmp_path, "us.nii", nifti(ARRAY, placed(5), placed(6), codes=(1, 2)))
    volume = Volume.read(source, voxel_size_mm=(2, 2, 2))
    volume.write(tmp_path / "v.nii")
    np.testing.assert_allclose(by_itk(tmp_path / "v.nii")[1], volume.ijk_to_ras, atol=1e-4)


def test_nifti_2_is_read(tmp_path):
    matrix = placed(7, left_handed=True)
    volume = Volume.read(saved(tmp_path, "v.nii.gz", gzip.compress(nifti(ARRAY, matrix, version=2))))
    np.testing.assert_allclose(volume.ijk_to_ras, matrix, atol=1e-12)
    np.testing.assert_array_equal(volume.array, ARRAY)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1)])
def test_a_flat_nifti_stands_in_space(tmp_path, codes):
    matrix = placed(8)
    flat = ARRAY[:1]
    for thickness in (0.0, 1.3):
        pixdim = (*np.linalg.norm(matrix[:3, :2], axis=0), thickness)
        data = nifti(flat, matrix, codes=codes, dims=(2, 5, 4, 1, 1, 1, 1, 1), pixdim=pixdim)
        volume = Volume.read(saved(tmp_path, "f.nii", data))
        assert volume.is_frame
        np.testing.assert_allclose(volume.ijk_to_ras[:, [0, 1, 3]], matrix[:, [0, 1, 3]], atol=1e-5)
        assert abs(volume.ijk_to_ras[:3, 2] @ matrix[:3, 2] / np.linalg.norm(volume.ijk_to_ras[:3, 2])) > 1.29


def test_a_nifti_is_read_by_its_content_not_by_its_ending(tmp_path):
    data = nifti(ARRAY, placed(9))
    for name, content in (("plain.nii.gz", data), ("packed.nii", gzip.compress(data))):
        np.testing.assert_array_equal(Volume.read(saved(tmp_path, name, content)).array, ARRAY)


def test_scaled_values_are_scaled(tmp_path):
    path = saved(tmp_path, "v.nii", nifti(ARRAY, placed(1), slope=(0.5, -3)))
    np.testing.assert_allclose(Volume.read(path).array, ARRAY * 0.5 - 3)
    np.testing.assert_allclose(Volume.read(path).array, by_itk(path)[0])


@pytest.mark.parametrize("codes, at", [((0, 1), 280), ((1, 0), 256), ((1, 1), 292)])
def test_a_nifti_placed_by_no_number_is_refused(tmp_path, codes, at):
    data = bytearray(nifti(ARRAY, placed(1), codes=codes))
    data[at : at + 4] = np.float32(np.nan).tobytes()
    assert refusal(saved(tmp_path, "v.nii", bytes(data))).kind == "geometry"


@pytest.mark.parametrize(
    "space, signs",
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("Left-Anterior-Superior", (-1, 1, 1)),
        ("scanner-xyz", (-1, -1, 1)),
    ],
)
def test_the_spaces_of_nrrd(tmp_path, space, signs):
    fields = {"space": space, "space directions": AXES, "space origin": "(1,2,3)"}
    path = saved(tmp_path, "v.nrrd", nrrd(ARRAY, fields))
    volume = Volume.read(path)
    np.testing.assert_allclose(volume.ijk_to_ras, by_itk(path)[1], atol=1e-12)
    np.testing.assert_allclose(np.diag(volume.ijk_to_ras)[:3], np.array(signs) * (0.7, 0.9, 1.3))


@pytest.mark.parametrize("unit, mm", [("um", 0.001), ("\u00b5m", 0.001), ("mm", 1), ("cm", 10), ("m", 1000)])
def test_the_units_of_nrrd_and_metaimage(tmp_path, unit, mm):
    shown = " ".join(f'"{unit}"' for _ in range(3))
    axes = " ".join(
        f"({','.join(str(side / mm if a == b else 0) for b in range(3))})" for a, side in enumerate((0.7, 0.9, 1.3))
    )
    fields = {"space": "LPS", "space directions": axes, "space origin": f"({10 / mm},0,0)", "space units": shown}
    volume = Volume.read(saved(tmp_path, "v.nrrd", nrrd(ARRAY, fields)))
    np.testing.assert_allclose(volume.spacing, (0.7, 0.9, 1.3))
    assert np.isclose(volume.ijk_to_ras[0, 3], -10)
    sides = " ".join(str(side / mm) for side in (0.7, 0.9, 1.3))
    path = saved(tmp_path, "v.mha", metaimage(ARRAY, {"ElementSpacing": sides, "DistanceUnits": unit}))
    np.testing.assert_allclose(Volume.read(path).spacing, (0.7, 0.9, 1.3))
    per_axis = {"spacings": sides, "units": shown}
    np.testing.assert_allclose(Volume.read(saved(tmp_path, "a.nrrd", nrrd(ARRAY, per_axis))).spacing, (0.7, 0.9, 1.3))


@pytest.mark.parametrize(
    "fields",
    [
        {"spacings": "1.5 2 3"},
        {"spacings": "-1.5 2 3"},
        {"spacings": "1.5 2 3", "axis mins": "1 2 3"},
        {"spacings": "1.5 2 3", "axis mins": "1 2 3", "centerings": "node node node"},
        {"space dimension": "3", "space directions": "(1,1,0) (-1,1,0) (0,0,2)", "space origin": "(9,8,7)"},
    ],
)
def test_nrrd_without_a_named_space_lies_where_itk_has_it(tmp_path, fields):
    path = saved(tmp_path, "v.nrrd", nrrd(ARRAY, fields))
    np.testing.assert_allclose(Volume.read(path).ijk_to_ras, by_itk(path)[1], atol=1e-12)


@pytest.mark.parametrize(
    "fields, kind",
    [
        ({"space": "LPS", "space directions": "(1,0,0) (0,1,0) (1,1,0)"}, "geometry"),
        ({"space": "LPS", "space directions": "(nan,0,0) (0,1,0) (0,0,1)"}, "geometry"),
        ({"space": "LPS", "space directions": "(1,0,0) (0,inf,0) (0,0,1)"}, "geometry"),
        ({"space": "LPS", "space directions": AXES, "space origin": "(nan,0,0)"}, "geometry"),
        ({"space": "LPS", "space directions": AXES, "space origin": "(1e300,0,0)"}, "geometry"),
        ({"space": "left-posterior-inferior", "space directions": AXES}, "geometry"),
        ({"space": "LPS", "space directions": AXES, "space units": '"ft" "ft" "ft"'}, "geometry"),
        ({"space": "RAS", "spacings": "1 1 1"}, "geometry"),
        ({"space": "LPS", "space directions": "(1e-9,0,0) (0,1,0) (0,0,1)"}, "spacing"),
        ({"space": "LPS", "space directions": "(1,0,0) (0,1,0) (0,0,1e9)"}, "spacing"),
        ({"spacings": "0,7 0,7 0,7"}, "unreadable"),
        ({"spacings": "1_0 1 1"}, "unreadable"),
        ({"sizes": "5 4 99999999999999999999"}, "unreadable"),
        ({"sizes": "2000 2000 2000", "spacings": "1 1 1"}, "size"),
        ({"encoding": "bzip2", "spacings": "1 1 1"}, "encoding"),
        ({"kinds": "complex domain domain", "spacings": "1 1 1"}, "colour"),
        ({"data file": "x%03d.raw 1 9 1", "spacings": "1 1 1"}, "encoding"),
    ],
)
def test_nrrd_that_cannot_be_placed_or_read_is_refused(tmp_path, fields, kind):
    assert refusal(saved(tmp_path, "v.nrrd", nrrd(ARRAY, fields))).kind == kind


@pytest.mark.parametrize(
    "fields, kind",
    [
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, "geometry"),
        ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "geometry"),
        ({"TransformMatrix": "1 0 0"}, "geometry"),
        ({"ElementSpacing": "0 1 1"}, "geometry"),
        ({"ElementSpacing": "1 1 -1"}, "geometry"),
        ({"ElementSpacing": "1 1 1e-9"}, "spacing"),
        ({"Offset": "inf 0 0"}, "geometry"),
        ({"DimSize": "40000 40000 40000"}, "size"),
        ({"DimSize": "-1 4 3"}, "unreadable"),
        ({"ElementType": "MET_OTHER"}, "unreadable"),
        ({"NDims": "nan"}, "unreadable"),
    ],
)
def test_metaimages_that_cannot_be_placed_or_read_are_refused(tmp_path, fields, kind):
    assert refusal(saved(tmp_path, "v.mha", metaimage(ARRAY, fields))).kind == kind


@pytest.mark.parametrize(
    "name, data",
    [
        ("v.nrrd", nrrd(ARRAY, {})),
        ("v.mha", metaimage(ARRAY, {"ElementSpacing": ""})),
        ("v.nii", nifti(ARRAY, placed(1), codes=(0, 0), pixdim=(0, 0, 0))),
    ],
)
def test_without_any_voxel_size_it_is_asked_for(tmp_path, name, data):
    path = saved(tmp_path, name, data)
    error = refusal(path)
    assert error.kind == "spacing" and "--voxel-size" in error.remedy
    np.testing.assert_allclose(Volume.read(path, voxel_size_mm=(0.5, 0.6, 0.7)).spacing, (0.5, 0.6, 0.7))
    np.testing.assert_allclose(Volume.read(path, voxel_size_mm=[0.5]).spacing, (0.5, 0.5, 0.5))
    flat = saved(tmp_path, "f.nrrd", nrrd(ARRAY[0], {}))
    assert "--pixel-size" in refusal(flat).remedy
    assert Volume.read(flat, pixel_size_mm=0.3).spacing[:2] == (0.3, 0.3)


def test_impossible_voxel_sizes_are_refused(tmp_path):
    path = saved(tmp_path, "v.nrrd", nrrd(ARRAY, {}))
    for wrong in ((0.0,), (1.0, 1.0), (np.nan, 1, 1), (-1, 1, 1)):
        assert refusal(path, voxel_size_mm=wrong).kind == "voxel-size"
    assert refusal(path, voxel_size_mm=(1e-9, 1, 1)).kind == "spacing"
    assert refusal(path, voxel_size_mm=(1, 1, 1), pixel_size_mm=1).kind == "voxel-size"


def test_texts_of_any_length_and_letter_are_read(tmp_path):
    long = "x" * 70_000
    fields = {"space": "LPS", "space directions": AXES, "content": long, "old min": long}
    data = nrrd(ARRAY, fields).replace(b"encoding: raw", b"encoding: raw\nkey:=\xff\xfe" + long.encode())
    volume = Volume.read(saved(tmp_path, "v.nrrd", data))
    assert volume.metadata["key"].endswith(long)
    volume.write(tmp_path / "w.nrrd")
    assert Volume.read(tmp_path / "w.nrrd").metadata == volume.metadata
    lines = {"Comment": long, "Name": long, "Odd": "a = b"}
    assert Volume.read(saved(tmp_path, "v.mha", metaimage(ARRAY, lines))).metadata == {"Comment": long, "Odd": "a = b"}
