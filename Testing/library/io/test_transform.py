"""Transform files are read by their own kind, without a locale, and refused where no head can have them."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.transform import read_transform, write_transform

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
KINDS = {
    "affine": lambda: sitk.AffineTransform(3),
    "identity": lambda: sitk.Transform(3, sitk.sitkIdentity),
    "translation": lambda: sitk.TranslationTransform(3),
    "scale": lambda: sitk.ScaleTransform(3),
    "euler": sitk.Euler3DTransform,
    "versor": sitk.VersorTransform,
    "rigid": sitk.VersorRigid3DTransform,
    "similarity": sitk.Similarity3DTransform,
    "scale-versor": sitk.ScaleVersor3DTransform,
    "scale-skew": sitk.ScaleSkewVersor3DTransform,
}


def varied(transform: sitk.Transform, seed: int) -> sitk.Transform:
    """With parameters and centre of its own."""
    rng = np.random.default_rng(seed)
    if transform.GetParameters():
        values = np.array(transform.GetParameters())
        transform.SetParameters((values + rng.normal(0, 0.1, values.size)).tolist())
    if transform.GetFixedParameters():
        centre = np.array(transform.GetFixedParameters())
        transform.SetFixedParameters((centre + rng.normal(0, 9, centre.size)).tolist())
    return transform


def moves_alike(transform: sitk.Transform, ras_to_canonical: np.ndarray) -> None:
    back = LPS_RAS @ np.linalg.inv(ras_to_canonical) @ LPS_RAS
    for point in np.random.default_rng(3).normal(0, 60, (5, 3)):
        np.testing.assert_allclose(
            transform.TransformPoint(point.tolist()), back[:3, :3] @ point + back[:3, 3], atol=1e-3
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["tfm", "txt", "h5", "mat"])
def test_every_linear_kind_is_read_as_itk_moves_points(tmp_path, kind, ending):
    if kind == "scale-skew" and ending == "h5":
        pytest.skip("SimpleITK itself cannot read it")
    transform = varied(KINDS[kind](), 7)
    sitk.WriteTransform(transform, str(tmp_path / f"t.{ending}"))
    moves_alike(transform, read_transform(tmp_path / f"t.{ending}"))


@pytest.mark.parametrize("ending", ["tfm", "h5"])
def test_linear_transforms_in_a_composite_are_put_together(tmp_path, ending):
    parts = [varied(KINDS[kind](), seed) for seed, kind in enumerate(("affine", "euler", "similarity"))]
    whole = sitk.CompositeTransform(parts)
    sitk.WriteTransform(whole, str(tmp_path / f"t.{ending}"))
    moves_alike(whole, read_transform(tmp_path / f"t.{ending}"))


def bent(where: float) -> sitk.Transform:
    """A B-spline that bends around this place alone."""
    domain = sitk.Image(40, 40, 40, sitk.sitkUInt8)
    domain.SetSpacing((3, 3, 3))
    domain.SetOrigin((where, where, where))
    spline = sitk.BSplineTransformInitializer(domain, (5, 5, 5))
    spline.SetParameters(np.random.default_rng(0).normal(0, 8, len(spline.GetParameters())).tolist())
    return spline


def field() -> sitk.Transform:
    image = sitk.Image([8, 8, 8], sitk.sitkVectorFloat64, 3)
    image.SetOrigin((500, 500, 500))
    return sitk.DisplacementFieldTransform(image)


@pytest.mark.parametrize("ending", ["tfm", "h5"])
@pytest.mark.parametrize("kind", ["spline", "spline far off", "straight spline", "field", "composite"])
def test_what_may_bend_is_refused_wherever_it_does(tmp_path, kind, ending):
    transform = {
        "spline": lambda: bent(-60),
        "spline far off": lambda: bent(5000),
        "straight spline": lambda: sitk.BSplineTransform(3),
        "field": field,
        "composite": lambda: sitk.CompositeTransform([sitk.AffineTransform(3), bent(5000)]),
    }[kind]()
    sitk.WriteTransform(transform, str(tmp_path / f"t.{ending}"))
    with pytest.raises(Refused, match="not a linear transform") as refusal:
        read_transform(tmp_path / f"t.{ending}")
    assert refusal.value.kind == "transform"


AFFINE = "#Insight Transform File V1.0\n#Transform 0\nTransform: {}\nParameters: {}\nFixedParameters: {}\n"
UNIT = "1 0 0 0 1 0 0 0 1"


@pytest.mark.parametrize(
    "kind, values, centre, sentence",
    [
        ("AffineTransform_double_3_3", "0 " * 12, "0 0 0", "cannot be inverted"),
        ("AffineTransform_double_3_3", "nan " * 12, "0 0 0", "not a transform file"),
        ("AffineTransform_double_3_3", UNIT + " inf 0 0", "0 0 0", "not a transform file"),
        ("AffineTransform_double_3_3", UNIT + " 1e300 0 0", "0 0 0", "cannot lead to a head"),
        ("AffineTransform_double_3_3", "1000 0 0 0 1000 0 0 0 1000 0 0 0", "0 0 0", "cannot lead to a head"),
        ("AffineTransform_double_3_3", "1 0 0 0 1 0 0 0 .001 0 0 0", "0 0 0", "cannot lead to a head"),
        ("AffineTransform_double_3_3", "1 0 0", "0 0 0", "not a transform file"),
        ("AffineTransform_double_3_3", UNIT + " 1,5 0 0", "0 0 0", "not a transform file"),
        ("AffineTransform_double_2_2", "1 0 0 1 0 0", "0 0", "not a 3D transform"),
        ("EvilTransform_double_3_3", "1", "0", "not a linear transform"),
        ("BSplineTransform_double_3_3", "0", "99999 99999 99999 0 0 0 1 1 1 1 0 0 0 1 0 0 0 1", "not a linear"),
        ("nonsense", "1", "0", "not a transform file"),
    ],
)  # fmt: skip
def test_impossible_transforms_are_refused_in_a_sentence(tmp_path, kind, values, centre, sentence):
    (tmp_path / "t.tfm").write_text(AFFINE.format(kind, values, centre))
    with pytest.raises(Refused, match=sentence) as refusal:
        read_transform(tmp_path / "t.tfm")
    assert refusal.value.kind == "transform" and "t.tfm" in refusal.value.message


@pytest.mark.parametrize("ending", ["tfm", "h5", "mat"])
@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 9, b"\x89HDF\r\n\x1a\n" + bytes(900)])
def test_other_files_are_no_transforms(tmp_path, content, ending):
    (tmp_path / f"t.{ending}").write_bytes(content)
    with pytest.raises(Refused, match="not a transform file"):
        read_transform(tmp_path / f"t.{ending}")
    with pytest.raises(Refused, match=r"no transform file|not a plain"):
        read_transform(tmp_path)
    with pytest.raises(Refused, match=r"There is no transform file x\.tfm"):
        read_transform(tmp_path / "x.tfm")


@pytest.mark.parametrize("ending", ["tfm", "txt", "h5"])
def test_what_is_written_comes_back_under_any_name_and_itk_reads_it(tmp_path, ending):
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(1).normal(0, 0.1, (3, 4))
    write_transform(matrix, tmp_path / f"J\u00fcrgen \u738b.{ending}")
    np.testing.assert_allclose(read_transform(tmp_path / f"J\u00fcrgen \u738b.{ending}"), matrix)
    moves_alike(sitk.ReadTransform(str(tmp_path / f"J\u00fcrgen \u738b.{ending}")), matrix)
