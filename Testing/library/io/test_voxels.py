"""Voxels come from plain files in reach, up to the stated size; no file crashes, blocks or fills the memory."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from factories.image_files import metaimage, nifti, nrrd, placed
from hypothesis import given, settings
from hypothesis import strategies as st
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io import header_metaimage, header_nifti, header_nrrd, voxels
from USMRISynthesisLib.io.volume import Volume

ARRAY = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


def refusal(path: Path, **options) -> Refused:
    with pytest.raises(Refused) as caught:
        Volume.read(path, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def detached(folder: Path, file: str, ending: str = ".nhdr") -> Path:
    """A header that names `file` as its voxels."""
    path = folder / f"x{ending}"
    if ending == ".nhdr":
        data = nrrd(ARRAY, {"spacings": "1 1 1", "data file": file})
        path.write_bytes(data[: len(data) - ARRAY.size])
    else:
        path.write_bytes(metaimage(ARRAY, {}, last=file))
    return path


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_voxels_beside_the_header_or_below_it_are_read(tmp_path, ending):
    (tmp_path / "deeper").mkdir()
    for file in ("x.raw", "deeper/x.raw", str(tmp_path / "x.raw")):
        (tmp_path / file).write_bytes(ARRAY.tobytes())
        np.testing.assert_array_equal(Volume.read(detached(tmp_path, file, ending)).array, ARRAY)


@posix
@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_voxels_elsewhere_are_not_read(tmp_path, ending):
    outside, folder = tmp_path / "outside.raw", tmp_path / "in"
    outside.write_bytes(ARRAY.tobytes())
    folder.mkdir()
    (folder / "link.raw").symlink_to(outside)
    (folder / "self.raw").symlink_to("self.raw")
    os.mkfifo(folder / "pipe")
    (folder / "sub").mkdir()
    named = ["../outside.raw", str(outside), "link.raw", "self.raw", "pipe", "sub", ".", "http://127.0.0.1:9/x.raw",
             "file:///etc/passwd", "/dev/zero", "~/x.raw", "| touch pwned", "x" + ending, "y" * 3000]  # fmt: skip
    for file in named:
        assert refusal(detached(folder, file, ending)).kind == "data-file", file
    assert not (folder / "pwned").exists()


def test_a_header_without_its_voxels_names_them(tmp_path):
    for ending in (".nhdr", ".mhd"):
        error = refusal(detached(tmp_path, "v.raw", ending))
        assert error.kind == "data-file" and "v.raw" in error.message and f"x{ending}" in error.message


@posix
def test_what_is_no_plain_file_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.nrrd")
    (tmp_path / "folder.nrrd").mkdir()
    (tmp_path / "zero.nrrd").symlink_to("/dev/zero")
    (tmp_path / "loop.nrrd").symlink_to("loop.nrrd")
    for name in (
        "pipe.nrrd",
        "folder.nrrd",
        "zero.nrrd",
        "loop.nrrd",
        "no/such.nrrd",
        "x" * 300 + ".nrrd",
        "nul\0.nrrd",
    ):
        assert refusal(tmp_path / name).kind in ("missing", "unreadable"), name


@posix
def test_names_that_are_not_utf8_are_read_and_written(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/t\xeate.nii.gz"))
    Volume(ARRAY, placed(1)).write(path)
    np.testing.assert_array_equal(Volume.read(path).array, ARRAY)


def test_names_outside_the_code_page_need_no_itk(tmp_path, monkeypatch):
    """On Windows, SimpleITK opens no path with letters outside the code page; played here by one that opens none."""

    def refuses(*_, **__):
        raise RuntimeError("The file does not exist.")

    for name in ("ReadImage", "WriteImage", "ImageFileReader", "ImageFileWriter"):
        monkeypatch.setattr(sitk, name, refuses)
    folder = tmp_path / "J\u00fcrgen \u738b"
    folder.mkdir()
    for ending in (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd"):
        Volume(ARRAY, placed(1)).write(folder / f"\u00e4{ending}")
        np.testing.assert_array_equal(Volume.read(folder / f"\u00e4{ending}").array, ARRAY)


def test_a_small_file_that_promises_much_is_refused_without_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr(voxels.zlib, "decompressobj", lambda *_, **__: pytest.fail("unpacked"))
    sizes = {"sizes": "900 900 900", "spacings": ".2 .2 .2", "encoding": "gzip"}
    data = nrrd(ARRAY, sizes)[: -ARRAY.size] + gzip.compress(ARRAY.tobytes())
    (tmp_path / "v.nrrd").write_bytes(data)
    assert "fewer voxels" in refusal(tmp_path / "v.nrrd").message
    (tmp_path / "v.mha").write_bytes(metaimage(ARRAY, {"DimSize": "900 900 900", "CompressedData": "True"}))
    assert "fewer voxels" in refusal(tmp_path / "v.mha").message


def test_what_follows_the_voxels_is_never_unpacked(tmp_path):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(nifti(ARRAY, placed(1))) + bomb)
    np.testing.assert_array_equal(Volume.read(tmp_path / "v.nii.gz").array, ARRAY)
    taken = []
    with open(tmp_path / "v.nii.gz", "rb") as file:
        taken = [len(part) for part in voxels._unpacked(file, 500)]
    assert sum(taken) < 2 << 20


def test_members_of_a_gzip_file_are_one_stream(tmp_path):
    data = nifti(ARRAY, placed(1))
    (tmp_path / "v.nii.gz").write_bytes(b"".join(gzip.compress(data[at : at + 40]) for at in range(0, len(data), 40)))
    np.testing.assert_array_equal(Volume.read(tmp_path / "v.nii.gz").array, ARRAY)


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_a_wrong_check_sum_is_noticed(tmp_path, ending):
    array = np.random.default_rng(0).integers(0, 255, (20, 20, 20), np.uint8)
    Volume(array, placed(1)).write(tmp_path / f"v{ending}")
    data = bytearray((tmp_path / f"v{ending}").read_bytes())
    data[-6 if ending != ".mha" else -2] ^= 1
    (tmp_path / f"v{ending}").write_bytes(bytes(data))
    assert refusal(tmp_path / f"v{ending}").kind == "unreadable"


def test_an_image_beyond_the_free_memory_is_refused(tmp_path, monkeypatch):
    Volume(np.zeros((100, 100, 100), np.uint8), placed(1)).write(tmp_path / "v.nrrd")
    monkeypatch.setattr(voxels, "free_memory", lambda: 1_000_000)
    error = refusal(tmp_path / "v.nrrd")
    assert error.kind == "memory" and "0.0 GB are free" in error.message
    monkeypatch.setattr(voxels, "free_memory", lambda: None)  # a system that does not say
    assert Volume.read(tmp_path / "v.nrrd").shape == (100, 100, 100)


def test_voxels_written_as_text_are_read(tmp_path):
    text = " ".join(map(str, ARRAY.ravel().tolist())).encode()
    head = nrrd(ARRAY, {"spacings": "1 1 1", "encoding": "ascii"})[: -ARRAY.size]
    (tmp_path / "v.nrrd").write_bytes(head + text)
    np.testing.assert_array_equal(Volume.read(tmp_path / "v.nrrd").array, ARRAY)
    (tmp_path / "v.nrrd").write_bytes(head + text[:-20])
    assert refusal(tmp_path / "v.nrrd").kind == "unreadable"
    (tmp_path / "v.nrrd").write_bytes(head + text.replace(b" 59", b" 999"))
    assert refusal(tmp_path / "v.nrrd").kind == "unreadable"
    packed = metaimage(ARRAY, {"BinaryData": "False"})[: -ARRAY.size]
    (tmp_path / "v.mha").write_bytes(packed + text)
    np.testing.assert_array_equal(Volume.read(tmp_path / "v.mha").array, ARRAY)


@pytest.mark.parametrize("order, name", [(">", "big"), ("<", "little")])
def test_either_byte_order_is_read(tmp_path, order, name):
    array = (ARRAY.astype(np.int16) * 100).astype(order + "i2")
    (tmp_path / "v.nrrd").write_bytes(nrrd(array, {"spacings": "1 1 1", "endian": name, "type": "short"}))
    back = Volume.read(tmp_path / "v.nrrd").array
    np.testing.assert_array_equal(back, ARRAY.astype(np.int16) * 100)
    assert back.dtype == np.int16 and back.dtype.isnative


GOOD = {
    "nrrd": (header_nrrd.parse, nrrd(ARRAY, {"space": "LPS", "space directions": "(1,0,0) (0,1,0) (0,0,1)"})),
    "meta": (header_metaimage.parse, metaimage(ARRAY, {})),
    "nifti": (header_nifti.parse, nifti(ARRAY, placed(1))),
    "nifti2": (header_nifti.parse, nifti(ARRAY, placed(1), version=2)),
}


@pytest.mark.filterwarnings("error")  # a warning would be a line on the user's terminal
@settings(max_examples=600, deadline=None)
@given(
    kind=st.sampled_from(sorted(GOOD)),
    changes=st.lists(st.tuples(st.integers(0, 560), st.binary(min_size=0, max_size=9), st.integers(0, 9)), max_size=6),
)
def test_no_header_leads_to_anything_but_a_sentence(kind, changes):
    parse, good = GOOD[kind]
    data = bytearray(good)
    for at, new, length in changes:
        at %= len(data)
        data[at : at + length] = new
    try:
        header = parse(bytes(data), "x")
    except Refused as error:
        assert error.kind and "\n" not in str(error)
    else:
        assert np.isfinite(header.ijk_to_ras).all() and header.count >= 1


@pytest.mark.filterwarnings("error")
@settings(max_examples=400, deadline=None)
@given(
    field=st.sampled_from(
        ["type", "dimension", "sizes", "space", "space directions", "space origin", "kinds", "endian", "encoding",
         "spacings", "line skip", "byte skip", "data file", "axis mins", "units", "space units", "space dimension"]
    ),
    value=st.one_of(
        st.text(max_size=60),
        st.from_regex(r"\(?[-0-9.e, ]{0,20}\)?( \(?[-0-9.enaif, ]{0,12}\)?){0,3}", fullmatch=True),
        st.sampled_from(["x" * 1100, "domain domain list", "(nan,nan,nan) (0,1,0) (0,0,1)", "1e308 1e308 1e308"]),
    ),
)  # fmt: skip
def test_no_value_of_an_nrrd_field_leads_to_anything_but_a_sentence(field, value):
    base = {"space": "LPS", "space directions": "(1,0,0) (0,1,0) (0,0,1)"}
    try:
        header_nrrd.parse(nrrd(ARRAY, base).replace(b"type: uchar", f"type: uchar\n{field}: {value}".encode()), "x")
    except Refused:
        pass
    if field in base or field in ("dimension", "sizes", "encoding", "type", "endian"):
        try:
            header_nrrd.parse(nrrd(ARRAY, {**base, field: value.replace("\n", " ")}), "x")
        except Refused:
            pass


@posix
def test_no_damaged_file_crashes_blocks_or_fills_the_memory(tmp_path):
    """In a child process of bounded memory and time, which ends by itself; each refused file has one sentence."""
    script = textwrap.dedent(
        """
        import random, resource, sys
        from pathlib import Path
        from USMRISynthesisLib.errors import Refused
        from USMRISynthesisLib.io.volume import Volume
        folder, chance = Path(sys.argv[1]), random.Random(4)
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        good = {path.name: path.read_bytes() for path in folder.iterdir()}
        refused = 0
        for number in range(1200):
            name = chance.choice(sorted(good))
            data = bytearray(good[name])
            for _ in range(chance.choice([1, 3, 20])):
                data[chance.randrange(min(400, len(data)))] ^= 1 << chance.randrange(8)
            if chance.random() < 0.3:
                del data[chance.randrange(len(data)):]
            path = folder / name
            path.write_bytes(bytes(data))
            try:
                Volume.read(path, frame=chance.choice([None, None, 0]))
            except Refused:
                refused += 1
        print(refused)
        """
    )
    volume = Volume(np.tile(ARRAY, (4, 4, 4)), placed(2))
    for ending in (".nrrd", ".nii", ".nii.gz", ".mha"):
        volume.write(tmp_path / f"v{ending}")
        volume.write(tmp_path / f"w{ending}", compress=False)
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(voxels.__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stderr == "" and 300 < int(run.stdout) < 1200
