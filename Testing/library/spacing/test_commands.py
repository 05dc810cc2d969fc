"""`usmri respace`, the worker's operation, and `usmri evaluate spacing` on made-up anatomy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from factories.spacing import oblique, smooth, spacing_model, stack
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.datasets.stacks import WEEKS
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.evaluation.spacing import evaluate as spacing
from USMRISynthesisLib.evaluation.spacing.peer import Peer
from USMRISynthesisLib.evaluation.spacing.stacks import register
from USMRISynthesisLib.io.provenance import file_sha256, marks, sidecar_of
from USMRISynthesisLib.io.synthetic import SYNTHETIC, SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.training.spacing import single_stack as spacing_alone
from USMRISynthesisLib.worker.client import WorkerProcess


@pytest.fixture
def model(tmp_path: Path, config_dir: Path) -> str:
    return str(spacing_model(tmp_path / "model", config_dir))


@pytest.fixture
def thick(tmp_path: Path) -> Path:
    stack(left_handed=True).write(tmp_path / "thick.nrrd")
    return tmp_path / "thick.nrrd"


# --- the command


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_respace_writes_the_volume_and_its_provenance(
    thick: Path, tmp_path: Path, model: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"thin{ending}"
    words = ["respace", str(thick), str(target), "--spacing", "1.1", "--consistency", "--model", model, "--json"]
    assert cli.main([*words, "--device", "cpu"]) == 0
    reply = json.loads(capsys.readouterr().out)
    thin, before = Volume.read(target), Volume.read(thick)
    assert thin.shape == (27, 24, 20) and np.allclose(thin.extent_mm, before.extent_mm, rtol=1e-5)
    assert reply["status"] == "done" and reply["slices"]["after"] == 27 and reply["consistency"] < 0.005
    beside = json.loads(sidecar_of(target).read_text())
    assert beside["notice"] == SYNTHETIC and beside["input"]["file_sha256"] == file_sha256(thick)
    assert beside["output"]["file_sha256"] == file_sha256(target)
    assert marks(target)[SYNTHETIC_KEY] == SYNTHETIC


def test_the_sentence_describes_the_slices_before_and_after(
    thick: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["respace", str(thick), str(tmp_path / "o.nrrd"), "--model", model, "--device", "cpu"]) == 0
    assert "9 slices of 3.3 mm became 30 of 0.99 mm along k" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "reply"),
    [
        (["{thick}", "{folder}/o.nrrd", "--spacing", "3"], 2, "too coarse"),
        (["{thick}", "{folder}/o.nrrd", "--axis", "j"], 2, "Along the axis j the voxels are not thick"),
        (["{folder}/none.nrrd", "{folder}/o.nrrd"], 2, "no file none.nrrd"),
        (["{thick}", "{thick}"], 2, "overwrite"),
        (["{thick}", "{folder}/o.png"], 1, "cannot be written as o.png"),
        (["{thick}", "{folder}/o.nrrd", "--model", "alignment"], 1, "made for 'alignment', not for slice spacing"),
        (["{cube}", "{folder}/o.nrrd"], 2, "isotropic already"),
        (["{frame}", "{folder}/o.nrrd"], 2, "single slice"),
        (["{labels}", "{folder}/o.nrrd"], 2, "looks like a segmentation"),
    ],
)
def test_each_refusal_is_one_sentence_and_leaves_nothing(
    thick: Path, tmp_path: Path, words: list[str], code: int, reply: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Volume(smooth((20, 20, 20)), oblique((1, 1, 1))).write(tmp_path / "cube.nrrd")
    Volume(smooth((1, 30, 30)), oblique((1, 1, 3))).write(tmp_path / "frame.nrrd")
    Volume((smooth((9, 24, 20)) // 200).astype(np.uint8), oblique((1, 1, 3))).write(tmp_path / "labels.nrrd")
    places = {
        "thick": str(thick),
        "folder": str(tmp_path),
        "cube": str(tmp_path / "cube.nrrd"),
        "frame": str(tmp_path / "frame.nrrd"),
        "labels": str(tmp_path / "labels.nrrd"),
    }
    assert cli.main(["respace", *(word.format(**places) for word in words)]) == code
    caught = capsys.readouterr()
    assert reply in caught.err and caught.err.count("\n") == 1 and not caught.out
    assert not (tmp_path / "o.nrrd").exists() and not (tmp_path / "o.json").exists()


def test_weights_that_are_not_the_manifests_are_refused(
    thick: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (Path(model) / "model.pt").open("ab") as file:
        file.write(b"x")
    assert cli.main(["respace", str(thick), str(tmp_path / "o.nrrd"), "--model", model]) == 1
    assert "SHA-256 differs" in capsys.readouterr().err


# --- the worker


def test_the_worker_respaces_reports_and_refuses(thick: Path, tmp_path: Path, model: str) -> None:
    heard: list[float] = []
    with WorkerProcess() as worker:
        fields = {"input": str(thick), "output": str(tmp_path / "o.nrrd"), "model": model, "device": "cpu"}
        done = worker.request(
            "respace",
            spacing=1.1,
            consistency=True,
            **fields,
            on_event=lambda event: heard.append(event["value"]) if event["event"] == "progress" else None,
        )
        assert Volume.read(tmp_path / "o.nrrd").shape == (27, 24, 20)
        assert done["consistency"] < 0.005 and done["provenance"]["operation"] == "respace"
        assert heard[-1] == 1.0 and heard == sorted(heard)
        with pytest.raises(Refused, match="too fine"):
            worker.request("respace", spacing=0.1, **fields)
        first = worker.pid
        with pytest.raises(Cancelled):
            worker.request("respace", cancel=lambda: True, **fields)
        assert worker.request("ping")["version"] and first


# --- the evaluation


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An atlas of two made-up weeks with fine structure."""
    for number, name in enumerate(WEEKS["val"]):
        folder = tmp_path / "data" / "fetal-mr-atlas" / name
        folder.mkdir(parents=True)
        array = np.zeros((44, 48, 40), np.float32)
        array[5:-5, 5:-5, 5:-5] = smooth((34, 38, 30), number)
        Volume(array, np.diag([-0.8, -0.8, 0.8, 1])).write(folder / "t2.nii.gz")
    return tmp_path / "data"


def test_evaluate_prints_a_table_and_ends_in_the_promised_keys(
    data: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spacing, "seconds_of_a_stack", lambda loaded: (1.5, 0.5))
    words = ["evaluate", "spacing", "--data", str(data), "--model", model, "--limit", "2", "--device", "cpu"]
    assert cli.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    methods = {"nearest", "linear", "cubic B-spline", "best linear estimate", "VAE alone", "ours", "ours, consistent"}
    assert set(result["psnr"]) == set(result["ssim"]) == methods
    assert result["psnr"]["nearest"] < result["psnr"]["cubic B-spline"] < result["psnr"]["best linear estimate"]
    assert result["consistency_projected"] < 1e-4 < result["consistency"] and result["seconds_stack"] == 1.5
    assert "neither --baseline-command nor --single-stack-minutes" in result["rivals"]["absent"]
    assert "no real stacks" in result["real"]["absent"]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "through-plane" in text and "neither --baseline-command nor --single-stack-minutes was given" in text


def test_what_trains_on_every_case_stands_beside_ours_with_its_seconds(
    data: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spacing, "seconds_of_a_stack", lambda loaded: (1.5, 0.5))
    words = [
        "evaluate",
        "spacing",
        "--data",
        str(data),
        "--model",
        model,
        "--limit",
        "1",
        "--device",
        "cpu",
        "--baseline-cases",
        "1",
        "--single-stack-minutes",
    ]
    assert cli.main([*words, "0.04", "--json"]) == 0
    table = json.loads(capsys.readouterr().out.splitlines()[-1])["rivals"]
    reply = table["methods"][spacing_alone.NAME]
    assert table["cases"] == [0] and reply["seconds_a_case"] > 2.4 and 10 < reply["psnr"] < 60
    assert table["methods"]["ours"].keys() == {"psnr", "ssim"}
    assert cli.main([*words, "-1"]) == 2
    assert "minutes of 0 or more. Correct" in capsys.readouterr().err


def test_a_perfect_method_has_the_best_figures_and_a_shifted_one_worse() -> None:
    truth = smooth((24, 26, 28)) / 1000
    perfect, shifted = (spacing.by_view(image, truth) for image in (truth, np.roll(truth, 1, axis=0)))
    for view in spacing.VIEWS:
        assert perfect[view][1] == pytest.approx(1) and perfect[view][0] > 100 > shifted[view][0]
        assert shifted[view][1] < 1


def test_psnr_follows_its_definition() -> None:
    truth = np.ones((10, 10, 10), np.float32)
    assert spacing.by_view(truth + 0.1, truth)["in-plane"][0] == pytest.approx(20, abs=1e-3)


def test_the_peer_is_run_as_a_program_and_its_result_checked(tmp_path: Path) -> None:
    program = tmp_path / "peer.py"
    program.write_text(
        "import sys\nsys.path.insert(0, " + repr(str(Path(cli.__file__).parents[2])) + ")\n"
        "from pathlib import Path\nimport numpy as np\nfrom USMRISynthesisLib.io.volume import Volume\n"
        "words = dict(zip(sys.argv[1::2], sys.argv[2::2]))\nv = Volume.read(words['--in-fpath'])\n"
        "f = int(words['--relative-slice-thickness'])\nassert abs(v.spacing[2] - 0.8 * f) < 1e-3\n"
        "Path(words['--out-dir']).mkdir()\nVolume(np.repeat(v.array, f, 0), v.ijk_to_ras).write("
        "words['--out-dir'] + '/thick_eclare.nii.gz')\n"
    )
    thick = smooth((5, 16, 18))
    made = Peer([sys.executable, str(program)], 10)(thick, 3, 0.8)
    assert np.allclose(made, np.repeat(thick, 3, 0))
    with pytest.raises(Failed, match="exit code 1"):
        Peer([sys.executable, "-c", "raise SystemExit(1)"], 10)(thick, 3, 0.8)
    with pytest.raises(Failed, match="cannot be started"):
        Peer([str(tmp_path / "nowhere")], 10)(thick, 3, 0.8)


def test_rigid_registration_of_two_stacks_finds_a_known_move() -> None:
    array = smooth((30, 36, 40), 2)
    k, j, i = np.indices(array.shape) - np.array([15, 18, 20])[:, None, None, None]
    inside = (k / 12) ** 2 + (j / 15) ** 2 + (i / 17) ** 2 < 1
    fixed = Volume(array * inside, oblique((1, 1, 1)))
    moved = np.eye(4)
    moved[:3, 3] = (3, -2, 1.5)
    moving = Volume(fixed.array, moved @ fixed.ijk_to_ras)
    masks = [Volume(inside.astype(np.uint8), volume.ijk_to_ras) for volume in (fixed, moving)]
    found = register(fixed, moving, *masks)
    centre = fixed.ijk_to_ras @ [20, 18, 15, 1]
    assert np.linalg.norm((found - moved) @ centre) < 0.5


def test_a_missing_atlas_and_an_unknown_split_are_refused(tmp_path: Path, data: Path, model: str) -> None:
    with pytest.raises(Refused, match="no atlas volume"):
        spacing.evaluate(tmp_path, "val", model=model, device="cpu")
    with pytest.raises(Refused, match="no split 'train'"):
        spacing.evaluate(data, "train", model=model, device="cpu")
