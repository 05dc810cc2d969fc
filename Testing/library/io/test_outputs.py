"""Where a run may write: never over an input, another output, a link or a file of another origin; all or nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.io import outputs
from USMRISynthesisLib.io.marks import is_ledger, is_ours, sidecar_of
from USMRISynthesisLib.io.outputs import FILE, FOLDER, FREE, LINK, OTHER, TOO_LONG, Place, check, conflict, staged
from USMRISynthesisLib.io.provenance import file_sha256, write_all_with_sidecars, write_with_sidecar
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
HERE = (1, 10)


def image(value: int = 1) -> Volume:
    """Oblique, anisotropic and left-handed."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1.0]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn * (0.7, 1.1, 2.3), (5, -9, 31)
    return Volume(np.full((3, 4, 5), value, np.int16), matrix)


def place(name: str = "out.nrrd", **changes: object) -> Place:
    return replace(Place(Path("/f") / name, FREE, None, HERE, True, False), **changes)  # type: ignore[arg-type]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("given", "kind", "exception", "sentence"),
    [
        ([place(kind=FOLDER)], "write", Failed, "out.nrrd is a folder."),
        ([place(folder=None)], "folder", Failed, "The folder for out.nrrd does not exist."),
        ([place(writable=False)], "write", Failed, "no permission in its folder"),
        ([place(kind=TOO_LONG)], "name", Failed, "The name of an output is too long"),
        ([place(kind=LINK)], "link", Refused, "out.nrrd is a link"),
        ([place(kind=OTHER)], "exists", Refused, "was not made by this program"),
        ([place(kind=FILE, identity=(1, 5))], "exists", Refused, "out.nrrd exists and was not made by this program"),
        ([place(), place()], "same-output", Refused, "Two results would be written to out.nrrd."),
        ([place("Out.nrrd"), place("oUT.nrrd")], "same-output", Refused, "Two results would be written to oUT.nrrd."),
        ([place("e\u0301.nrrd"), place("\u00e9.nrrd")], "same-output", Refused, "Two results"),
        ([place("o.json", neighbour="o.nii")], "sidecar", Refused, "o.json would stand beside o.nii as well"),
        (
            [place(name, kind=FILE, identity=(1, 5), ours=True) for name in ("a.nrrd", "b.nrrd")],
            "same-output",
            Refused,
            "Two results would be written to b.nrrd.",
        ),
    ],
)  # fmt: skip
def test_each_conflict_has_its_sentence(given, kind, exception, sentence) -> None:
    problem = conflict(given)
    assert type(problem) is exception and problem.kind == kind
    assert sentence in problem.message and problem.remedy.endswith(".")


@pytest.mark.parametrize(
    "source",
    [
        place("in.nrrd", kind=FILE, identity=(1, 5)),  # by whatever name: the same file
        place("OUT.nrrd", kind=FILE, identity=(1, 6)),  # one name on a disk that ignores case
        place("out.nrrd"),  # not there yet, and named as input all the same
    ],
)
def test_an_output_is_never_an_input(source: Place) -> None:
    problem = conflict([place(kind=FILE, identity=(1, 5), ours=True)], [source])
    assert (
        isinstance(problem, Refused) and problem.kind == "same-file" and "would overwrite an input" in problem.message
    )


def test_what_is_free_or_ours_may_be_written() -> None:
    given = [place("a.nrrd"), place("a.json"), place("b.nrrd", kind=FILE, identity=(1, 7), ours=True)]
    assert conflict(given, [place("c.nrrd", kind=FILE, identity=(1, 8))]) is None


@POSIX
@pytest.mark.parametrize("way", ["symbolic", "hard", "folder"])
def test_an_input_is_recognised_through_links(way: str, tmp_path: Path) -> None:
    source = tmp_path / "in" / "us.nrrd"
    source.parent.mkdir()
    image().write(source)
    target = tmp_path / "out.nrrd"
    if way == "symbolic":
        target.symlink_to(source)
    elif way == "hard":
        os.link(source, target)
    else:
        (tmp_path / "other").symlink_to(source.parent)
        target = tmp_path / "other" / "us.nrrd"
    before = source.read_bytes()
    with pytest.raises(Refused, match="would overwrite an input"):
        check([target], [source])
    with pytest.raises(Refused, match="would overwrite an input"):
        write_with_sidecar(image(2), {"notice": SYNTHETIC}, target, source=source)
    assert source.read_bytes() == before


def test_the_voxel_file_of_an_input_is_an_input(tmp_path: Path) -> None:
    image().write(tmp_path / "us.mhd", compress=False)
    assert (tmp_path / "us.raw").is_file()
    with pytest.raises(Refused, match=r"us\.raw would overwrite an input"):
        check([tmp_path / "us.raw"], [tmp_path / "us.mhd"])


@POSIX
def test_a_link_is_not_replaced_whether_it_leads_somewhere_or_not(tmp_path: Path) -> None:
    (tmp_path / "dangling.nrrd").symlink_to(tmp_path / "nowhere.nrrd")
    write_with_sidecar(image(), {"notice": SYNTHETIC}, tmp_path / "mr.nrrd")
    (tmp_path / "linked.nrrd").symlink_to(tmp_path / "mr.nrrd")
    for name in ("dangling.nrrd", "linked.nrrd"):
        with pytest.raises(Refused, match=f"{name} is a link, and links are not replaced"):
            write_with_sidecar(image(2), {"notice": SYNTHETIC}, tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert not (tmp_path / "nowhere.nrrd").exists() and int(Volume.read(tmp_path / "mr.nrrd").array[0, 0, 0]) == 1


@pytest.mark.parametrize("ending", [".nrrd", ".nii", ".nii.gz", ".mha"])
def test_ours_is_told_by_the_file_itself_not_by_what_lies_beside_it(ending: str, tmp_path: Path) -> None:
    target = tmp_path / f"mr{ending}"
    write_with_sidecar(image(), {"notice": SYNTHETIC}, target)
    assert is_ours(target) and is_ours(sidecar_of(target))
    write_with_sidecar(image(2), {"notice": SYNTHETIC}, target)  # replaced
    assert int(Volume.read(target).array[0, 0, 0]) == 2
    image(3).write(target)  # an acquired image under the name, our provenance still beside it
    assert not is_ours(target)
    before = digests(tmp_path)
    with pytest.raises(Refused, match="exists and was not made by this program"):
        write_with_sidecar(image(4), {"notice": SYNTHETIC}, target)
    assert digests(tmp_path) == before


def test_an_unmarked_image_is_ours_where_its_provenance_has_its_hash(tmp_path: Path) -> None:
    target = tmp_path / "map.nrrd"
    image().write(target)
    sidecar_of(target).write_text(
        json.dumps({"notice": SYNTHETIC, "output": {"file_sha256": file_sha256(target)}}), encoding="utf-8"
    )
    assert is_ours(target)
    write_with_sidecar(image(2), {"notice": SYNTHETIC}, target)
    assert int(Volume.read(target).array[0, 0, 0]) == 2


def test_a_ledger_is_no_provenance_file_and_neither_is_another_json(tmp_path: Path) -> None:
    texts = {"sidecar": f'{{"notice": "{SYNTHETIC}"}}', "ledger": f'{{"notice": "{SYNTHETIC}", "cases": {{}}}}',
             "other": '{"EchoTime": 0.09}', "list": "[1]", "broken": "{"}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text)
    assert [name for name in texts if is_ours(tmp_path / f"{name}.json")] == ["sidecar"]
    assert [name for name in texts if is_ledger(tmp_path / f"{name}.json")] == ["ledger"]


def test_a_foreign_provenance_file_stops_the_image_too(tmp_path: Path) -> None:
    (tmp_path / "sub-01_us.json").write_text('{"Manufacturer": "made by hand"}')
    with pytest.raises(Refused, match=r"sub-01_us\.json exists"):
        write_with_sidecar(image(), {"notice": SYNTHETIC}, tmp_path / "sub-01_us.nii.gz")
    assert sorted(digests(tmp_path)) == ["sub-01_us.json"]


def test_one_provenance_file_never_stands_beside_two_images(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"Two results would be written to out\.json"):
        write_all_with_sidecars(
            [(image(), tmp_path / "out.nrrd"), (image(), tmp_path / "out.nii.gz")], {"notice": SYNTHETIC}
        )
    image().write(tmp_path / "out.mha")
    with pytest.raises(Refused, match=r"out\.json would stand beside out\.mha"):
        write_with_sidecar(image(), {"notice": SYNTHETIC}, tmp_path / "out.nrrd")
    assert sorted(digests(tmp_path)) == ["out.mha"]


def test_a_long_name_is_written_and_one_that_is_too_long_refused(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 245 + ".nrrd")
    sidecar = write_with_sidecar(image(), {"notice": SYNTHETIC}, target)
    assert target.is_file() and sidecar.is_file()
    with pytest.raises(Failed, match="too long for its folder"):
        check([tmp_path / ("n" * 300 + ".nrrd")])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_appears_while_the_work_goes_on_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "mr.nrrd"
    check([target])
    with pytest.raises(Refused, match=r"mr\.nrrd exists"), staged([target]) as (name,):
        image().write(name)
        target.write_bytes(b"the user's")
    assert digests(tmp_path) == {"mr.nrrd": hashlib.sha256(b"the user's").hexdigest()}


def test_what_is_ours_and_becomes_the_users_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "mr.nrrd"
    write_with_sidecar(image(), {"notice": SYNTHETIC}, target)
    with pytest.raises(Refused, match=r"mr\.nrrd exists"), staged([target]) as (name,):
        image(2).write(name, metadata={"Comment": SYNTHETIC})
        image(7).write(target)  # saved over it by hand
    assert int(Volume.read(target).array[0, 0, 0]) == 7


@pytest.mark.parametrize("earlier", [False, True])
def test_when_the_last_file_cannot_be_placed_the_first_is_taken_back(earlier: bool, tmp_path: Path) -> None:
    first, last = tmp_path / "mr.nrrd", tmp_path / "mr.json"
    if earlier:
        write_with_sidecar(image(), {"notice": SYNTHETIC}, first)
    before = digests(tmp_path)
    with pytest.raises(Refused, match=r"mr\.json exists"), staged([first, last]) as names:
        image(2).write(names[0], metadata={"Comment": SYNTHETIC})
        names[1].write_text("{}")
        last.write_text('{"somebody": "else"}')
    left = digests(tmp_path)
    assert left.pop("mr.json") == hashlib.sha256(b'{"somebody": "else"}').hexdigest()
    before.pop("mr.json", None)
    assert left == before


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_disk_without_hard_links_is_written_to_by_the_same_rules(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", none)
    target = tmp_path / "mr.nrrd"
    for value in (1, 2):
        write_with_sidecar(image(value), {"notice": SYNTHETIC}, target)
        assert int(Volume.read(target).array[0, 0, 0]) == value
    image(3).write(target)
    with pytest.raises(Refused, match="was not made by this program"):
        outputs.place_all([(_finished(tmp_path), target)])
    assert int(Volume.read(target).array[0, 0, 0]) == 3


def _finished(folder: Path) -> Path:
    (folder / "work").mkdir()
    image(9).write(folder / "work" / "0.nrrd")
    return folder / "work" / "0.nrrd"


def test_several_files_of_ours_are_replaced_together(tmp_path: Path) -> None:
    for value in (1, 2):
        images = [(image(value), tmp_path / name) for name in ("mr.nii.gz", "map.nrrd", "third.mha")]
        write_all_with_sidecars(images, {"notice": SYNTHETIC, "value": value})
        assert {int(Volume.read(path).array[0, 0, 0]) for _, path in images} == {value}
    assert len(list(tmp_path.iterdir())) == 6


def test_a_support_map_says_that_it_is_synthetic(tmp_path: Path) -> None:
    write_all_with_sidecars(
        [(image(), tmp_path / "mr.nrrd"), (image(), tmp_path / "map.nii.gz")], {"notice": SYNTHETIC}
    )
    assert Volume.read(tmp_path / "map.nii.gz").metadata["Comment"] == SYNTHETIC
    assert sorted(digests(tmp_path)) == ["map.json", "map.nii.gz", "mr.json", "mr.nrrd"]


def test_the_hash_of_a_detached_header_covers_its_voxels(tmp_path: Path) -> None:
    for ending in (".mhd", ".nhdr"):
        path = tmp_path / f"us{ending}"
        image(1).write(path, compress=False)
        before, header = file_sha256(path), path.read_bytes()
        voxels = tmp_path / "us.raw"
        voxels.write_bytes(voxels.read_bytes()[:-2] + b"\x09\x00")
        assert path.read_bytes() == header and file_sha256(path) != before
        voxels.unlink()


def test_the_voxels_of_another_image_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mr.raw").write_bytes(b"another's")
    with pytest.raises(Failed, match=r"Writing mr\.mhd failed"):
        image().write(tmp_path / "mr.mhd", compress=False)
    assert digests(tmp_path) == {"mr.raw": hashlib.sha256(b"another's").hexdigest()}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be made here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("ending", [".nrrd", ".nii", ".nii.gz", ".mha"])
def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(ending: str, small_disk: Path) -> None:
    target = small_disk / f"mr{ending}"
    write_with_sidecar(image(), {"notice": SYNTHETIC}, target)
    before = digests(small_disk)
    noise = np.random.default_rng(0).integers(0, 1000, (60, 60, 60)).astype(np.int16)
    with pytest.raises(Failed, match=rf"Writing mr{ending} failed: No space left on device\. Check free space"):
        write_with_sidecar(Volume(noise, image().ijk_to_ras), {"notice": SYNTHETIC}, target)
    assert digests(small_disk) == before and not list(small_disk.glob(".*"))


def test_a_full_disk_ends_the_command_with_one_and_nothing_left(
    small_disk: Path, tmp_path: Path, frame: Volume, trusted_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from USMRISynthesisLib.cli.command_line import main

    frame.write(tmp_path / "us.nrrd")
    (small_disk / "filling").write_bytes(bytes(56_000))
    words = ["synthesize", str(tmp_path / "us.nrrd"), str(small_disk / "mr.nii"), "--model", str(trusted_model)]
    assert main([*words, "--device", "cpu", "--quiet", "--unreliable"]) == 1
    assert "Writing mr.nii failed: No space left on device." in capsys.readouterr().err
    assert [path.name for path in small_disk.iterdir()] == ["filling"]
