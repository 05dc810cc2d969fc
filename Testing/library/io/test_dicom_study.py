"""Studies: several series in a folder, a DICOMDIR, links and pipes; what is asked for is read, and nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")
from factories.dicom import SECRETS, US, US_FILM, dataset, directory, region, save, series
from factories.image_files import placed
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.io import dicom_find
from USMRISynthesisLib.io.reading import count_frames
from USMRISynthesisLib.io.volume import Volume

RNG = np.random.default_rng(0)
SOLID = RNG.integers(0, 1500, (5, 7, 9)).astype(np.int16)
FILM = RNG.integers(0, 255, (3, 48, 64), dtype=np.uint8)
REGIONS = [region(0, 0, 63, 47)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Series 1: ultrasound, a still and a film. Series 2: MR in slices. Beside them a text file."""
    folder = tmp_path / "study"
    uid = "1.2.3.4"
    still = dataset(US, FILM[0], SeriesInstanceUID=uid, SequenceOfUltrasoundRegions=REGIONS)
    film = dataset(US_FILM, FILM, SeriesInstanceUID=uid, InstanceNumber=2, SequenceOfUltrasoundRegions=REGIONS)
    save(still, folder / "a" / "IM1")
    save(film, folder / "a" / "IM2")
    series(folder / "b", SOLID, placed(1), SeriesNumber=2, SeriesInstanceUID="1.2.3.5")
    (folder / "readme.txt").write_text("no image")
    return folder


def test_several_images_are_listed_without_the_patient(study):
    with pytest.raises(Refused) as refusal:
        Volume.read(study)
    assert refusal.value.kind == "series" and refusal.value.remedy == "Choose one with --series NUMBER."
    assert refusal.value.message == (
        "study holds 3 images: 1.1: US, 1 file, 64 x 48; 1.2: US, 1 file, 3 frames of 64 x 48; 2: MR, 5 files, 9 x 7."
    )
    assert not any(secret in str(refusal.value) for secret in SECRETS)


def test_one_of_them_is_chosen_by_number_or_uid(study):
    np.testing.assert_array_equal(Volume.read(study, series="1.1").array[0], FILM[0])
    np.testing.assert_array_equal(Volume.read(study, series="1.2", frame=2).array[0], FILM[2])
    assert count_frames(study, series="1.2") == 3 and count_frames(study, series="2") == 1
    for name in ("2", "1.2.3.5"):
        np.testing.assert_array_equal(Volume.read(study, series=name).array, SOLID)
    with pytest.raises(Refused, match=r"There is no such series.*Correct --series"):
        Volume.read(study, series="7")
    with pytest.raises(Refused, match="holds 3 images"):  # the series has two
        Volume.read(study, series="1.2.3.4")


def test_localisers_of_other_directions_are_images_of_their_own(tmp_path):
    for number, turned in enumerate((placed(1), placed(2))):
        series(tmp_path / "study" / str(number), SOLID, turned, SeriesInstanceUID="1.2.3")
    with pytest.raises(Refused, match=r"1\.1: MR, 5 files, 9 x 7; 1\.2: MR, 5 files, 9 x 7"):
        Volume.read(tmp_path / "study")


def test_a_dicomdir_lists_the_images(study):
    path = directory(study, sorted(study.glob("b/*")))
    np.testing.assert_array_equal(Volume.read(path).array, SOLID)


def test_a_dicomdir_leads_nowhere_else(study, tmp_path):
    series(tmp_path / "other", SOLID, placed(1))
    (study / "link").symlink_to(tmp_path / "other")
    one = next(iter((tmp_path / "other").iterdir())).name
    names = [["..", "other", one], ["link", one], [f"../other/{one}"], [str(tmp_path / "other" / one)], ["nothing"]]
    with pytest.raises(Refused, match="no image in the DICOM data of DICOMDIR"):
        Volume.read(directory(study, names))


def test_links_in_a_folder_are_not_followed(study, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "folder").symlink_to(study)
    (folder / "file").symlink_to(study / "a" / "IM1")
    with pytest.raises(Refused):
        Volume.read(folder)
    save(dataset(US, FILM[0], SequenceOfUltrasoundRegions=REGIONS), folder / "IM1")
    assert len(dicom_find.items_at(folder, "links")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
def test_a_pipe_in_a_folder_is_left_out(study):
    os.mkfifo(study / "a" / "IM0")
    assert len(dicom_find.items_at(study, "study")) == 3


def test_damaged_files_in_a_folder_are_left_out(study):
    whole = (study / "a" / "IM1").read_bytes()
    (study / "a" / "IM3").write_bytes(whole[:200])
    assert len(dicom_find.items_at(study, "study")) == 3


def test_too_many_files_are_no_study(study, monkeypatch):
    monkeypatch.setattr(dicom_find, "_MOST_FILES", 4)
    with pytest.raises(Refused, match=r"study holds too many files for a study. Give the folder of one study"):
        Volume.read(study)


def test_without_pydicom_one_sentence_says_how_to_get_it(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(Failed, match=r"DICOM needs the Python package pydicom.*Install it: pip install pydicom"):
        Volume.read(study / "a" / "IM1")


def test_our_own_result_says_that_it_is_synthetic(study, tmp_path):
    from USMRISynthesisLib.io.dicom_write import write_dicom
    from USMRISynthesisLib.io.synthetic import SYNTHETIC, SYNTHETIC_KEY

    source = Volume.read(study, series="2")
    (tmp_path / "out").mkdir()
    write_dicom(tmp_path / "out", source, {}, source=source.files)
    again = Volume.read(tmp_path / "out")
    np.testing.assert_array_equal(again.array, source.array)
    np.testing.assert_allclose(again.ijk_to_ras, source.ijk_to_ras, atol=1e-5)
    assert again.metadata[SYNTHETIC_KEY] == SYNTHETIC and not any(secret in str(again.metadata) for secret in SECRETS)


def test_more_than_memory_holds_is_refused_before_it_is_read(study, monkeypatch):
    monkeypatch.setattr("USMRISynthesisLib.io.dicom_pixels.free_memory", lambda: 10_000)
    with pytest.raises(Refused, match=r"needs about .* GB of memory"):
        Volume.read(study, series="1.1")


def test_more_pixels_than_the_file_has_are_refused(tmp_path):
    one = dataset(US, FILM[0], SequenceOfUltrasoundRegions=REGIONS)
    one.Rows = one.Columns = 60_000
    with pytest.raises(Refused, match=r"does not lie|more voxels than can be read|cut short"):
        Volume.read(save(one, tmp_path / "us.dcm"))
    one.Rows, one.Columns, one.NumberOfFrames = 48, 64, 2**31 - 1
    with pytest.raises(Refused):
        Volume.read(save(one, tmp_path / "us.dcm"), frame=2**30)


def test_ultrasound_slices_with_a_place_and_no_regions_are_a_volume(tmp_path):
    series(tmp_path / "study", SOLID, placed(6), sop_class=US, Modality="US")
    read = Volume.read(tmp_path / "study")
    np.testing.assert_array_equal(read.array, SOLID)
    np.testing.assert_allclose(read.ijk_to_ras, placed(6), atol=1e-5)


def test_a_batch_of_many_files_is_no_study_and_is_not_limited(study, tmp_path, monkeypatch):
    from USMRISynthesisLib.batch.cases import find_cases

    monkeypatch.setattr(dicom_find, "_MOST_FILES", 4)
    monkeypatch.setattr(dicom_find, "_MOST_LOOKED_AT", 4)
    cases = find_cases(study, tmp_path / "out")
    assert [case.name for case in cases] == ["a/IM1", "a/IM2", "b/series-2"]
    assert [len(case.files) for case in cases] == [1, 1, 5] and cases[2].series == "1"


def test_a_batch_without_pydicom_takes_the_other_images(study, tmp_path, monkeypatch):
    from USMRISynthesisLib.batch.cases import find_cases

    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(Failed, match="needs the Python package pydicom"):
        find_cases(study, tmp_path / "out")
    Volume(SOLID, np.eye(4)).write(study / "c.nrrd")
    assert [case.name for case in find_cases(study, tmp_path / "out")] == ["c.nrrd"]
