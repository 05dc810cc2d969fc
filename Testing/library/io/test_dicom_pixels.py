"""Pixels of DICOM in every form that scanners write: grey, inverted, signed, grey in colour, palettes, compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from factories.dicom import US, US_FILM, dataset, save  # noqa: E402
from USMRISynthesisLib.errors import Refused  # noqa: E402
from USMRISynthesisLib.io import dicom_decode  # noqa: E402
from USMRISynthesisLib.io.volume import Volume  # noqa: E402

RNG = np.random.default_rng(0)
Y, X = np.mgrid[:48, :64]
SMOOTH = (100 + 50 * np.sin(Y / 9) + 50 * np.cos(X / 7)).astype(np.uint8)
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def read(tmp_path: Path, pixels: np.ndarray, *, syntax: str = "1.2.840.10008.1.2.1", **fields: Any) -> np.ndarray:
    fields = {"PixelSpacing": [0.3, 0.3], **fields}
    path = save(dataset(US, pixels, **fields), tmp_path / "us.dcm", syntax)
    return Volume.read(path).array[0]


def test_monochrome1_is_turned_over(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, SMOOTH, PhotometricInterpretation="MONOCHROME1"), 255 - SMOOTH)
    deep = SMOOTH.astype(np.uint16) * 16
    inverted = read(tmp_path, deep, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(inverted, 4095 - deep)


@pytest.mark.parametrize("kind", ["u2", "i2", "u4", "i4"])
def test_deep_and_signed_values_are_kept(kind: str, tmp_path: Path) -> None:
    values = (SMOOTH.astype(np.int64) * 100 - (12_000 if kind[0] == "i" else 0)).astype(kind)
    np.testing.assert_array_equal(read(tmp_path, values), values)


def test_only_the_stored_bits_count(tmp_path: Path) -> None:
    values = (SMOOTH.astype(np.int16) - 128) * 8  # 12 bits, signed
    with_overlay = ((values & 0x0FFF) | (RNG.integers(0, 16, SMOOTH.shape) << 12)).astype(np.uint16)
    made = read(tmp_path, with_overlay, BitsStored=12, HighBit=11, PixelRepresentation=1)
    np.testing.assert_array_equal(made, values)


def test_the_rescale_slope_applies(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read(tmp_path, SMOOTH.astype(np.uint16), RescaleSlope=1, RescaleIntercept=-1024), SMOOTH.astype(int) - 1024
    )
    scaled = read(tmp_path, SMOOTH, RescaleSlope="0.5", RescaleIntercept="3")
    np.testing.assert_allclose(scaled, SMOOTH * 0.5 + 3)


@pytest.mark.parametrize("planar", [0, 1])
def test_grey_stored_in_three_colours_is_grey(planar: int, tmp_path: Path) -> None:
    colours = np.repeat(SMOOTH[..., None], 3, -1)
    one = dataset(US, colours, PixelSpacing=[0.3, 0.3], PlanarConfiguration=planar)
    if planar:
        one.PixelData = np.moveaxis(colours, -1, 0).tobytes()
    np.testing.assert_allclose(Volume.read(save(one, tmp_path / "us.dcm")).array[0], SMOOTH, atol=1)


def test_planes_of_colour_are_not_taken_for_pixels(tmp_path: Path) -> None:
    """Read in the wrong order, colour planes that differ would be a grey picture of another form."""
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[..., 0] = 255
    one = dataset(US, colours, PixelSpacing=[0.3, 0.3], PlanarConfiguration=1)
    one.PixelData = np.moveaxis(colours, -1, 0).tobytes()
    with pytest.raises(Refused, match=r"100.0 % of the image are in colour"):
        Volume.read(save(one, tmp_path / "us.dcm"))


def test_ybr_full_is_grey_by_its_luminance(tmp_path: Path) -> None:
    ybr = np.full((48, 64, 3), 128, np.uint8)
    ybr[..., 0] = SMOOTH
    np.testing.assert_allclose(read(tmp_path, ybr, PhotometricInterpretation="YBR_FULL"), SMOOTH, atol=1)


def test_ybr_full_422_keeps_every_pixel(tmp_path: Path) -> None:
    one = dataset(US, np.repeat(SMOOTH[..., None], 3, -1), PixelSpacing=[0.3, 0.3])
    one.PhotometricInterpretation = "YBR_FULL_422"
    packed = np.full((48, 32, 4), 128, np.uint8)
    packed[..., 0], packed[..., 1] = SMOOTH[:, ::2], SMOOTH[:, 1::2]
    one.PixelData = packed.tobytes()
    np.testing.assert_allclose(Volume.read(save(one, tmp_path / "us.dcm")).array[0], SMOOTH, atol=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_palette_is_applied(bits: int, tmp_path: Path) -> None:
    table = np.arange(256, dtype=np.uint16)[::-1] * (256 if bits == 16 else 1)
    fields: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        fields[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        data = table.astype("<u2" if bits == 16 else "u1").tobytes()
        fields[f"{colour}PaletteColorLookupTableData"] = data
    np.testing.assert_allclose(read(tmp_path, SMOOTH, **fields), 255 - SMOOTH, atol=1)


def test_a_coloured_palette_is_refused(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, top in (("Red", 255), ("Green", 0), ("Blue", 60)):
        fields[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        fields[f"{colour}PaletteColorLookupTableData"] = np.linspace(0, top, 256).astype("u1").tobytes()
    with pytest.raises(Refused, match="in colour"):
        read(tmp_path, SMOOTH, **fields)
    with pytest.raises(Refused, match="could not be read"):
        read(tmp_path, SMOOTH, PhotometricInterpretation="PALETTE COLOR")


def test_run_lengths_are_unpacked(tmp_path: Path) -> None:
    film = np.stack([SMOOTH + shift for shift in range(4)])
    one = dataset(US_FILM, film, PixelSpacing=[0.3, 0.3])
    save(one, tmp_path / "raw.dcm")
    one.compress(pydicom.uid.RLELossless)
    save(one, tmp_path / "rle.dcm", pydicom.uid.RLELossless)
    for frame in (0, 3):
        np.testing.assert_array_equal(Volume.read(tmp_path / "rle.dcm", frame=frame).array[0], film[frame])


JPEGS = ["JPEGBaseline8Bit", "JPEG2000Lossless", "JPEG2000"]


@pytest.mark.parametrize("frame", [0, 2])
@pytest.mark.parametrize("syntax", JPEGS)
def test_jpeg_is_unpacked_frame_by_frame(syntax: str, frame: int, tmp_path: Path) -> None:
    """The frames are packed by Pillow, and unpacked by GDCM."""
    image = pytest.importorskip("PIL.Image")
    film = np.stack([np.roll(SMOOTH, 5 * shift, 1) for shift in range(3)])
    parts = []
    for one in film:
        path = tmp_path / ("a.jpg" if "Base" in syntax else "a.j2k")
        image.fromarray(one).save(path, **({"quality": 98} if "Base" in syntax else {"irreversible": False}))
        parts.append(path.read_bytes())
    one = dataset(US_FILM, film, PixelSpacing=[0.3, 0.3])
    one.PixelData = pydicom.encaps.encapsulate(parts)
    one["PixelData"].is_undefined_length = True
    path = save(one, tmp_path / "us.dcm", getattr(pydicom.uid, syntax))
    np.testing.assert_allclose(
        Volume.read(path, frame=frame).array[0].astype(int), film[frame], atol=3 if "Base" in syntax else 0
    )


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="pydicom's sample files are not installed")
@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"],
)
def test_the_same_image_in_other_syntaxes_is_the_same(name: str) -> None:
    if not (SAMPLES / f"{name}.dcm").is_file():
        pytest.skip("this version of pydicom does not bring it")
    plain, packed = (Volume.read(SAMPLES / f"{one}.dcm") for one in ("MR_small", name))
    np.testing.assert_array_equal(packed.array, plain.array)
    np.testing.assert_array_equal(packed.ijk_to_ras, plain.ijk_to_ras)


@pytest.mark.skipif(not (SAMPLES / "examples_ybr_color.dcm").is_file(), reason="pydicom's sample is not installed")
def test_pydicoms_ultrasound_film_is_refused_for_its_region_and_read_with_a_size() -> None:
    path = SAMPLES / "examples_ybr_color.dcm"  # scaled to half its size, its region not
    with pytest.raises(Refused, match="does not lie in its picture"):
        Volume.read(path, frame=3)
    read = Volume.read(path, frame=3, pixel_size_mm=1.02)
    assert read.shape == (1, 240, 320) and 5 < read.array.mean() < 15


def test_a_crash_or_a_hang_of_the_unpacker_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = dataset(US, SMOOTH, PixelSpacing=[0.3, 0.3])
    one.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xe0 no jpeg"])
    one["PixelData"].is_undefined_length = True
    path = save(one, tmp_path / "us.dcm", pydicom.uid.JPEGLosslessSV1)
    with pytest.raises(Refused, match=r"us\.dcm could not be read: its pixels could not be unpacked"):
        Volume.read(path)
    monkeypatch.setattr(dicom_decode, "_CHILD", "import os; os.abort()")
    with pytest.raises(Refused, match="could not be unpacked"):
        Volume.read(path)
    monkeypatch.setattr(dicom_decode, "_CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(dicom_decode, "_SECONDS", 1)
    with pytest.raises(Refused, match="could not be unpacked in time"):
        Volume.read(path)


def test_the_unpacker_gets_no_patient_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(SMOOTH).save(tmp_path / "a.jpg")
    one = dataset(US, SMOOTH, PixelSpacing=[0.3, 0.3])
    one.PixelData = pydicom.encaps.encapsulate([(tmp_path / "a.jpg").read_bytes()])
    one["PixelData"].is_undefined_length = True
    path = save(one, tmp_path / "us.dcm", pydicom.uid.JPEGBaseline8Bit)
    seen: list[bytes] = []
    real = dicom_decode.subprocess.run
    monkeypatch.setattr(
        dicom_decode.subprocess, "run", lambda words, **o: seen.append(Path(words[3]).read_bytes()) or real(words, **o)
    )
    Volume.read(path)
    assert len(seen) == 1 and b"Muster" not in seen[0] and b"4711" not in seen[0]


@pytest.mark.parametrize("syntax", ["MPEG2MPML", "DeflatedExplicitVRLittleEndian"])
def test_other_packing_is_refused_with_a_way(syntax: str, tmp_path: Path) -> None:
    one = dataset(US, SMOOTH, PixelSpacing=[0.3, 0.3])
    path = save(one, tmp_path / "us.dcm")
    old, new = b"1.2.840.10008.1.2.1\0", getattr(pydicom.uid, syntax).encode()
    if syntax.startswith("MPEG"):
        one.PixelData = pydicom.encaps.encapsulate([b"12345678"])
        one["PixelData"].is_undefined_length = True
        save(one, path, getattr(pydicom.uid, syntax))
    else:
        data = path.read_bytes().replace(old, new)
        at = data.index(b"\x02\x00\x10\x00UI") + 6
        path.write_bytes(data[:at] + len(new).to_bytes(2, "little") + data[at + 2 :])
    with pytest.raises(Refused, match=r"compressed in a way that is not read|is packed as a whole") as refusal:
        Volume.read(path)
    assert refusal.value.kind == "encoding" and "NRRD" in refusal.value.remedy
