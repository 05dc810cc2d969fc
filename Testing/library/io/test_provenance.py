"""What an image says about itself survives its file, and stands beside it without any name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.provenance import file_sha256, marks, read_sidecar, sidecar_of, write_with_sidecar
from USMRISynthesisLib.io.synthetic import PROVENANCE_KEY, SYNTHETIC, SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import Volume

FORMATS = (".nrrd", ".nii", ".nii.gz", ".mha")


def synthetic() -> tuple[Volume, dict]:
    provenance = {
        "notice": SYNTHETIC,
        "model": {"name": "tiny", "sha256": "0" * 64},
        "input": {"type": "uint8"},
        "warnings": ['a = b; "c" \\n'],
    }
    return Volume(
        np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        np.eye(4),
        {"Comment": SYNTHETIC, SYNTHETIC_KEY: SYNTHETIC, PROVENANCE_KEY: json.dumps(provenance)},
    ), provenance


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_says_that_it_is_synthetic_and_where_it_comes_from(ending: str, tmp_path: Path) -> None:
    mr, provenance = synthetic()
    target = tmp_path / f"head.x{ending}"
    sidecar = write_with_sidecar(mr, provenance, target)
    assert sidecar == tmp_path / "head.x.json"
    found = marks(target)
    assert found[SYNTHETIC_KEY] == SYNTHETIC
    assert json.loads(found[PROVENANCE_KEY])["model"] == provenance["model"]
    sidecar.unlink()
    assert marks(target)[SYNTHETIC_KEY] == SYNTHETIC  # every format carries the notice
    assert (PROVENANCE_KEY in marks(target)) is (ending in (".nrrd", ".mha"))  # these two carry all of it


def test_other_files_say_nothing(tmp_path: Path) -> None:
    Volume(np.zeros((2, 3, 4), np.uint8), np.eye(4)).write(tmp_path / "us.nrrd")
    (tmp_path / "us.json").write_text('{"notice": "something else"}')
    (tmp_path / "text.nrrd").write_text("no image")
    for name in ("us.nrrd", "text.nrrd", "none.nrrd", "us.json"):
        assert marks(tmp_path / name) == {}


def test_synthesize_notes_input_model_versions_device_parameters_seed_and_alignment(
    frame: Volume, tmp_path: Path, trusted_model: Path
) -> None:
    source, target = tmp_path / "DOE^JANE.nrrd", tmp_path / "mr.nrrd"
    frame.write(source)
    assert (
        cli.main(["synthesize", str(source), str(target), "--model", str(trusted_model), "--device", "cpu", "--quiet"])
        == 0
    )
    content = read_sidecar(target)
    assert content["input"]["file_sha256"] == file_sha256(source)
    assert content["output"]["file_sha256"] == file_sha256(target)
    assert len(content["input"]["voxels_sha256"]) == len(content["model"]["sha256"]) == 64
    assert {"version", "python", "numpy", "scipy", "SimpleITK", "torch"} <= set(content["software"])
    assert content["device"]["name"] == "cpu" and content["device"]["reason"]
    assert content["parameters"] == {"device": "cpu", "planes": "axial", "transform_given": False}
    assert content["seed"] is None  # nothing is drawn at random
    assert 0 <= content["alignment"]["score"] <= 1 and len(content["alignment"]["ras_to_canonical"]) == 16
    assert "DOE" not in json.dumps(content) and str(tmp_path) not in json.dumps(content)
    carried = json.loads(Volume.read(target).metadata[PROVENANCE_KEY])
    assert carried["model"] == content["model"] and carried["alignment"] == content["alignment"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_read_only_folder_keeps_what_it_had(tmp_path: Path) -> None:
    mr, provenance = synthetic()
    target = tmp_path / "mr.nrrd"
    write_with_sidecar(mr, provenance, target)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(Failed, match=r"Writing mr\.nrrd failed: .*Check free space and permissions"):
            write_with_sidecar(mr, {**provenance, "seed": 1}, target)
    finally:
        tmp_path.chmod(0o700)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_disk_that_fills_up_leaves_the_older_pair_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr, provenance = synthetic()
    target = tmp_path / "mr.nrrd"
    write_with_sidecar(mr, provenance, target)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Failed, match=r"Writing mr\.nrrd failed: No space left on device\."):
        write_with_sidecar(mr, {**provenance, "seed": 1}, target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert sidecar_of("a/b.nii.gz") == Path("a/b.json")
