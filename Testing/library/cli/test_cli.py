"""`usmri`: right exit codes, one sentence on stderr, one JSON on stdout, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras
from USMRISynthesisLib.io.transform import read_transform, write_transform
from USMRISynthesisLib.io.volume import Volume

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the command works; at the end it holds what the test expects and nothing else."""
    made = tmp_path / "work"
    made.mkdir()
    return made


@pytest.fixture
def image(frame: Volume, tmp_path: Path) -> Path:
    """A frame, named as files often are: it takes a tenth of a volume's time."""
    path = tmp_path / "DOE^JANE.nrrd"
    frame.write(path)
    return path


@pytest.fixture
def volume(head: Volume, tmp_path: Path) -> Path:
    path = tmp_path / "DOE^JANE-3D.nrrd"
    head.write(path)
    return path


@pytest.fixture
def transform(head: Volume, tmp_path: Path) -> Path:
    """The head's true place, as an ITK file."""
    matrix = np.eye(4)
    matrix[:3, 3] = -(head.ijk_to_ras @ [*((np.array(head.shape[::-1]) - 1) / 2), 1])[:3]
    write_transform(matrix, tmp_path / "true.tfm")
    return tmp_path / "true.tfm"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.strip().endswith(".") and "Traceback" not in text


def test_synthesize_writes_the_image_and_its_provenance(
    volume: Path, folder: Path, transform: Path, trusted_model: Path, head: Volume, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(
        [
            "synthesize",
            str(volume),
            str(folder / "mr.nii.gz"),
            "--model",
            str(trusted_model),
            "--device",
            "cpu",
            "--transform",
            str(transform),
            "--gestational-age",
            "24.5",
            "--json",
        ]
    )
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (code, err, result["status"]) == (0, "", "done") and result["trusted"] is True
    assert _names(folder) == ["mr.json", "mr.nii.gz"]
    mr = Volume.read(folder / "mr.nii.gz")
    assert mr.shape == head.shape and mr.array.dtype == np.int16 and mr.array.max() > 0
    np.testing.assert_allclose(mr.ijk_to_ras, head.ijk_to_ras, atol=1e-4)
    assert mr.metadata["Comment"] == "SYNTHETIC - not for diagnosis"
    provenance = (folder / "mr.json").read_text()
    alignment = json.loads(provenance)["alignment"]
    assert (alignment["method"], alignment["gestational_age_weeks"]) == ("given", 24.5)
    assert "DOE" not in provenance and "DOE" not in str(dict(mr.metadata))


def test_the_text_says_where_the_result_is_and_quiet_says_nothing(
    frame: Volume, folder: Path, tmp_path: Path, trusted_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame.write(tmp_path / "frame.mha")
    arguments = [
        "synthesize",
        str(tmp_path / "frame.mha"),
        str(folder / "mr.mha"),
        "--model",
        str(trusted_model),
        "--device",
        "cpu",
    ]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert str(folder / "mr.mha") in out and "SYNTHETIC - not for diagnosis" in out
    assert cli.main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "pattern"),
    [
        (["synthesize", "{tmp}/none.nrrd", "{out}/mr.nrrd"], 2, "none.nrrd"),
        (["synthesize", "{image}", "{image}"], 2, "would overwrite an input"),
        (["synthesize", "{image}", "{out}/missing/mr.nrrd"], 1, "does not exist. Create it"),
        (["synthesize", "{image}", "{out}/mr.png"], 1, "cannot be written as mr.png"),
        (["synthesize", "{image}", "{out}"], 1, "cannot be written as"),
        (["synthesize", "{image}", "{out}/mr.nrrd", "--planes", "oblique"], 2, "no 'oblique' slices"),
        (["synthesize", "{image}", "{out}/mr.nrrd", "--model", "nonesuch"], 1, "no model 'nonesuch'"),
        (["synthesize", "{image}", "{out}/mr.nrrd", "--device", "tpu"], 1, "no device 'tpu'"),
        (["synthesize", "{image}", "{out}/mr.nrrd", "--device", "cuda"], 1, "CUDA was chosen"),
        (["synthesize", "{image}", "{out}/mr.nrrd", "--transform", "{image}"], 2, "not a transform file"),
        (["synthesize", "{image}", "{out}/mr.nrrd", "--model", "{model}"], 2, "--trust-model"),
        (["synthesize", "{image}", "{out}/mr.nrrd", "--gestational-age", "9.5"], 2, "9.5 weeks is outside 14 to 42"),
        (
            ["normalise", "{image}", "{out}/us.nrrd", "--gestational-age", "nan"],
            2,
            "outside 14 to 42. Give it in weeks",
        ),
        (["synthesize", "{noise}", "{out}/mr.nrrd"], 2, "same value"),
        (["synthesize", "{image}"], 2, "required: OUT"),
        (["fly"], 2, "invalid choice"),
        (["info", "nonesuch"], 1, "no model 'nonesuch'"),
        (["train", "{tmp}/none.toml"], 2, "cannot be read"),
        (["export", "{tmp}/none.pt", "{out}/m"], 2, "none.pt"),
        (["simulate", "{tmp}/none.json", "{out}/d", "--data", "{tmp}"], 2, "no configuration"),
    ],
)
def test_each_refusal_is_one_sentence_with_a_remedy_and_leaves_nothing(
    arguments: list[str],
    code: int,
    pattern: str,
    image: Path,
    folder: Path,
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("CUDA is here")
    noise = tmp_path / "constant.nrrd"
    Volume(np.zeros((40, 40, 40), np.uint8), np.eye(4)).write(noise)
    before = image.read_bytes()
    names = {"tmp": tmp_path, "out": folder, "image": image, "noise": noise, "model": tiny_model}
    assert cli.main([argument.format(**names) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert pattern in err and _one_sentence(err) and out == ""
    assert _names(folder) == [] and image.read_bytes() == before


def test_an_error_is_one_json_object_with_json(image: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["synthesize", str(image), str(folder / "mr.nrrd"), "--model", "nonesuch", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert (content["status"], content["kind"]) == ("failed", "no-model") and content["remedy"]


def test_an_unexpected_fault_is_a_sentence_and_a_traceback_only_with_verbose(
    image: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from USMRISynthesisLib.synthesis import pipeline

    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret/path")

    monkeypatch.setattr(pipeline, "synthesize", fault)
    arguments = ["synthesize", str(image), str(folder / "mr.nrrd")]
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err and "secret" not in err and _one_sentence(err)
    assert cli.main([*arguments, "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_changed_weights_are_refused_and_info_says_so(
    image: Path, folder: Path, trusted_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["info", str(trusted_model)]) == 0
    assert "match the manifest" in capsys.readouterr().out
    with open(trusted_model / "model.pt", "ab") as file:
        file.write(b"x")
    assert cli.main(["info", str(trusted_model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["intact"] is False
    assert cli.main(["synthesize", str(image), str(folder / "mr.nrrd"), "--model", str(trusted_model)]) == 1
    assert "SHA-256 differs" in capsys.readouterr().err and _names(folder) == []


def test_trust_is_given_once_and_remembered(image: Path, folder: Path, tiny_model: Path, transform: Path) -> None:
    arguments = [
        "synthesize",
        str(image),
        str(folder / "mr.nrrd"),
        "--model",
        str(tiny_model),
        "--device",
        "cpu",
        "--transform",
        str(transform),
        "--quiet",
    ]
    assert [cli.main(arguments), cli.main([*arguments, "--trust-model"]), cli.main(arguments)] == [2, 0, 0]


def test_a_doubtful_alignment_is_warned_about_on_stderr(
    image: Path,
    folder: Path,
    transform: Path,
    trusted_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from USMRISynthesisLib.synthesis import pipeline

    monkeypatch.setattr(pipeline, "MIN_CONFIDENCE", 1.1)
    assert (
        cli.main(
            [
                "synthesize",
                str(image),
                str(folder / "mr.nrrd"),
                "--model",
                str(trusted_model),
                "--device",
                "cpu",
                "--transform",
                str(transform),
                "--json",
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert err.startswith("Warning: The head was found with low confidence") and json.loads(out)["trusted"] is False


def test_a_head_that_is_not_found_reliably_is_not_synthesised_unless_that_is_asked_for(
    folder: Path, trusted_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).rayleigh(40, (1, 120, 160)).clip(0, 255).astype(np.uint8)
    Volume(noise, np.diag([0.7, 0.7, 1.0, 1.0])).write(tmp_path / "noise.nrrd")
    arguments = [
        "synthesize",
        str(tmp_path / "noise.nrrd"),
        str(folder / "mr.nrrd"),
        "--model",
        str(trusted_model),
        "--device",
        "cpu",
        "--quiet",
    ]
    assert cli.main(arguments) == 2
    assert "--any-content" in capsys.readouterr().err
    assert cli.main([*arguments, "--any-content"]) == 2
    sentence = capsys.readouterr().err
    assert "not found reliably" in sentence and "landmarks" in sentence and not (folder / "mr.nrrd").exists()
    assert cli.main([*arguments, "--any-content", "--unreliable"]) == 0
    assert (folder / "mr.nrrd").exists()


def test_info_names_versions_device_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json", "--quiet"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {"USMRISynthesis", "Python", "torch", "SimpleITK"} <= set(content["versions"])
    assert content["device"]["reason"] and isinstance(content["models"], list)
    assert cli.main(["--version"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_a_sentence_and_no_file(
    image: Path, folder: Path, transform: Path, trusted_model: Path, number: int
) -> None:
    code = (
        "import sys, time\nfrom USMRISynthesisLib import cli\n"
        "from USMRISynthesisLib.synthesis import pipeline\n"
        "def slow(*_, **__):\n    print('started', flush=True)\n    time.sleep(60)\n"
        "pipeline.synthesize = slow\nsys.exit(cli.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "synthesize", str(image), str(folder / "mr.nrrd")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a shell's background job ignores it
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    start = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1 and err == "Cancelled. Nothing was changed.\n"
    assert time.monotonic() - start < 5 and _names(folder) == []


def test_the_command_is_installed_and_runs_as_a_module() -> None:
    for command in ([str(Path(sys.executable).with_name("usmri"))], [sys.executable, "-m", "USMRISynthesisLib.cli"]):
        done = subprocess.run(
            [*command, "--version"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "USMRISynthesis")},
        )
        assert done.stdout.startswith("usmri ")


def test_normalise_writes_a_transform_that_itk_resamples_with(
    volume: Path, folder: Path, head: Volume, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["normalise", str(volume), str(folder / "canonical.nrrd"), "--transform", str(folder / "to.tfm")]) == 0
    )
    assert _names(folder) == ["canonical.nrrd", "to.tfm"]
    canonical = Volume.read(folder / "canonical.nrrd")
    np.testing.assert_allclose(canonical.ijk_to_ras, canonical_ijk_to_ras(), atol=1e-6)
    again = sitk.Resample(
        sitk.ReadImage(str(volume), sitk.sitkFloat32),
        sitk.ReadImage(str(folder / "canonical.nrrd")),
        sitk.ReadTransform(str(folder / "to.tfm")),
        sitk.sitkLinear,
    )
    array = sitk.GetArrayFromImage(again)
    inside = np.s_[50:110, 50:110, 50:110]
    assert np.corrcoef(array[inside].ravel(), canonical.array[inside].ravel())[0, 1] > 0.999


def test_a_transform_file_comes_back_as_it_went(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = np.eye(4)
    matrix[:3, :3] = 0.9 * np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix[:3, 3] = rng.normal(size=3) * 40
    for ending in (".tfm", ".txt", ".h5"):
        write_transform(matrix, tmp_path / f"t{ending}")
        np.testing.assert_allclose(read_transform(tmp_path / f"t{ending}"), matrix, atol=1e-9)
    # A point of the image is carried by ras_to_canonical; the file maps canonical to image, in LPS.
    point = np.array([3.0, -20, 11, 1])
    flip = np.diag([-1.0, -1, 1, 1])
    carried = flip @ matrix @ point
    back = sitk.ReadTransform(str(tmp_path / "t.tfm")).TransformPoint(carried[:3].tolist())
    np.testing.assert_allclose(back, (flip @ point)[:3], atol=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.h5", "t.tfm", "t.txt"]


def test_a_warp_is_no_transform_to_canonical_space(tmp_path: Path) -> None:
    spline = sitk.BSplineTransformInitializer(sitk.Image([20, 20, 20], sitk.sitkFloat32), [3, 3, 3])
    spline.SetParameters(np.random.default_rng(0).normal(size=len(spline.GetParameters())).tolist())
    sitk.WriteTransform(spline, str(tmp_path / "warp.tfm"))
    with pytest.raises(Refused, match="not a linear transform"):
        read_transform(tmp_path / "warp.tfm")


def test_the_voxel_size_is_given_where_the_file_states_none(folder: Path, head: Volume, capsys) -> None:
    data = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 72 72 64\nencoding: raw\n\n" + head.array.tobytes()
    (folder / "us.nrrd").write_bytes(data)
    line = ["normalise", str(folder / "us.nrrd"), str(folder / "out.nrrd"), "--json"]
    assert cli.main(line) == 2
    refused = json.loads(capsys.readouterr().out)
    assert refused["kind"] == "spacing" and "--voxel-size" in refused["remedy"]
    assert cli.main([*line, "--voxel-size", "1.6", "1.6", "1.6"]) == 0
    assert _names(folder) == ["out.nrrd", "us.nrrd"]
    assert cli.main([*line, "--voxel-size", "1", "2"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kind"] == "voxel-size"
