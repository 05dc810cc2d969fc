"""Damaged and hostile DICOM ends in a sentence: no crash, no hang, nothing of the patient, no memory beyond need."""

from __future__ import annotations

import logging
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from factories.dicom import SECRETS, US, US_FILM, dataset, directory, enhanced, region, save, series  # noqa: E402
from factories.image_files import placed  # noqa: E402
from USMRISynthesisLib.errors import Failed, Refused  # noqa: E402
from USMRISynthesisLib.io.volume import Volume  # noqa: E402

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (4, 12, 16), dtype=np.uint8)
REGIONS = [region(0, 0, 15, 11)]
SECONDS = 5.0
MUTANTS = 120


def still(folder: Path) -> Path:
    return save(dataset(US, GREY[0], SequenceOfUltrasoundRegions=REGIONS), folder / "us.dcm")


def film(folder: Path) -> Path:
    one = dataset(US_FILM, GREY, SequenceOfUltrasoundRegions=REGIONS)
    save(one, folder / "us.dcm")  # it must know how it is stored before it is packed
    one.compress(pydicom.uid.RLELossless)
    return save(one, folder / "us.dcm", pydicom.uid.RLELossless)


def volume(folder: Path) -> Path:
    return save(enhanced(GREY, placed(1)), folder / "us.dcm")


def palette(folder: Path) -> Path:
    fields = {"PhotometricInterpretation": "PALETTE COLOR", "SequenceOfUltrasoundRegions": REGIONS}
    for colour in ("Red", "Green", "Blue"):
        fields[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        fields[f"{colour}PaletteColorLookupTableData"] = (np.arange(256, dtype="<u2") * 257).tobytes()
    return save(dataset(US, GREY[0], **fields), folder / "us.dcm")


def listed(folder: Path) -> Path:
    return directory(folder, [still(folder)])


def mutants(data: bytes, count: int, seed: int) -> list[bytes]:
    """Bytes turned, lengths made huge or zero, pieces cut out, doubled or moved, the end cut off."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        new = bytearray(data)
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(132, len(new) - 8))
            kind = (index + int(rng.integers(0, 6))) % 6
            if kind == 0:
                new[at] = int(rng.integers(0, 256))
            elif kind == 1:
                new[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\xfe\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\0\0"])
            elif kind == 2:
                del new[at : at + int(rng.integers(1, 40))]
            elif kind == 3:
                new[at:at] = new[at : at + int(rng.integers(1, 200))]
            elif kind == 4:
                new[at : at + 2] = rng.choice([b"SQ", b"UN", b"OB", b"DS", b"US", b"UT", b"\xfe\xff", b"\0\0"])
            elif len(new) > 400:
                del new[int(rng.integers(200, len(new))) :]
        made.append(bytes(new))
    return made


@pytest.mark.parametrize("make", [still, film, volume, palette, listed])
def test_a_damaged_file_is_an_image_or_a_sentence(make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = make(tmp_path)
    whole = path.read_bytes()
    sentences = read = 0
    for number, mutant in enumerate(mutants(whole, MUTANTS, seed=len(whole))):
        path.write_bytes(mutant)
        began = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                got = Volume.read(path, frame=0)
                assert got.array.ndim == 3 and np.isfinite(got.ijk_to_ras).all()
                read += 1
            except (Refused, Failed) as error:
                sentences += 1
                said = "".join(traceback.format_exception(error))
                assert error.remedy and not any(secret in said for secret in SECRETS), (number, said)
        assert time.monotonic() - began < SECONDS, number
        assert not any(secret in str(one.message) for one in caught for secret in SECRETS), number
    assert not any(secret in caplog.text for secret in SECRETS)
    assert read and sentences > MUTANTS // 10  # the mutations neither miss nor break everything


def test_a_study_with_a_damaged_file_is_read_without_it(tmp_path: Path) -> None:
    series(tmp_path / "study", GREY.astype(np.int16), placed(1))
    (tmp_path / "study" / "broken").write_bytes(still(tmp_path).read_bytes()[:300])
    assert Volume.read(tmp_path / "study").shape == GREY.shape


def test_an_announced_length_takes_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = still(tmp_path)
    data = path.read_bytes()
    at = data.index(b"\x08\x00\x90\x00PN")  # the referring physician: made to claim 2 GB
    path.write_bytes(data[:at] + b"\x08\x00\x90\x00UT\0\0" + (2**31 - 2).to_bytes(4, "little") + data[at + 8 :])
    tracemalloc.start()
    with pytest.raises(Refused):
        Volume.read(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_sequences_nested_without_end_are_a_sentence(tmp_path: Path) -> None:
    path = still(tmp_path)
    data = path.read_bytes()
    at = data.index(b"\x08\x00\x90\x00PN")
    nest = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(data[:at] + nest * 20_000)
    with pytest.raises(Refused):
        Volume.read(path)
