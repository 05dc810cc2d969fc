"""`usmri evaluate real` from beginning to end on made-up data, with a product whose answers are known."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.atlas import make_atlas
from factories.heads import simulated_case
from PIL import Image
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.pictures import real as pictures
from USMRISynthesisLib.evaluation.real import cases, evaluate
from USMRISynthesisLib.evaluation.real.negatives import BESIDE
from USMRISynthesisLib.geometry.landmarks import similarity_from_landmarks
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import Synthesis

SIZE, PIXEL = (200, 260), 0.5
CENTRE, AXES = (90.0, 100.0), (80.0, 62.0)  # of the head on each frame: x, y; along x, along y
LANDMARKS = {"front": (0.0, 40.0, 0.0), "back": (0.0, -40.0, 0.0), "top": (0.0, 0.0, 35.0)}
WITHOUT_BRAIN = 30  # grey of a frame that shows no head


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def head_frame(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    radius = ((x - CENTRE[0]) / AXES[0]) ** 2 + ((y - CENTRE[1]) / AXES[1]) ** 2
    image = np.where(radius < 1, 90, 50) + 8 * np.sin(x / (3 + seed // 2)) + rng.integers(0, 9, SIZE)
    image[(radius > 0.93) & (radius < 1)] = 230
    return np.asarray(image, np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_atlas(tmp_path_factory.mktemp("data"))
    rows = []
    for n in range(8):
        name = f"{8 + n // 2:03d}_{n % 2}HC.png"  # of fetuses 8 and 9 nothing was trained
        (root / "hc18" / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(head_frame(n)).save(root / "hc18" / "images" / name)
        size = {"pixel_size_mm": PIXEL, "head_circumference_mm": 240 + n // 2}
        place = {"centre_x_px": CENTRE[0], "centre_y_px": CENTRE[1], "angle_deg": 0.0}
        rows.append({"file": name, **size, **place, "semi_major_px": AXES[0], "semi_minor_px": AXES[1]})
    write_table(root / "hc18" / "index.csv", rows)
    box = {"file": "008_0HC.png", "structure": "csp", "cx": 130, "cy": 100, "w": 24, "h": 20, "face_angle_deg": 0.0}
    falx = box | {"structure": "falx", "cx": 90, "cy": 102, "w": 120, "h": 20}
    write_table(root / "hc18" / "structures.csv", [box, falx])
    for folder, name, grey in (("not-brain", "a.png", WITHOUT_BRAIN), ("not-brain", "b.png", 90)):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(np.full(SIZE, grey, np.uint8)).save(root / folder / name)
    write_table(
        root / "not-brain" / "index.csv",
        [{"file": f"{name}.png", "patient": name, "shows": "abdomen"} for name in "ab"],
    )
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = -70
    rng = np.random.default_rng(0)
    points = []
    for name in ("one.nrrd", "two.nrrd"):
        (root / "us-3d-real").mkdir(exist_ok=True)
        Volume(rng.integers(40, 120, (71, 71, 71)).astype(np.uint8), grid).write(root / "us-3d-real" / name)
        points += [{"file": name, "point": key, **dict(zip(("ras_x", "ras_y", "ras_z"), at, strict=True))}
                   for key, at in LANDMARKS.items()]  # fmt: skip
    write_table(root / "us-3d-real" / "landmarks.csv", points)
    return root


def product(volume: Volume, *, allow_low_confidence: bool = False, **_: Any) -> Synthesis:
    """Refuses frames as dark as WITHOUT_BRAIN; else shows the ultrasound itself within the head, its front on the right
    of the picture, and a bright cavum."""
    if volume.is_frame:
        if np.median(volume.array) < 45 and not allow_low_confidence:
            raise Refused("unreliable", "The head was not found reliably.", "Look.")
        rows, columns = volume.shape[1:]
        y, x = np.mgrid[:rows, :columns]
        inside = (((x - CENTRE[0]) / AXES[0]) ** 2 + ((y - CENTRE[1]) / AXES[1]) ** 2 < 1)[None]
        values = np.where(inside, 2 * volume.array.astype(float) + 1, 0)
        cavum = np.hypot(x - 130, y - 100) < 9
        values[:, cavum] = 950
        ends = [volume.ijk_to_ras @ [CENTRE[0] + side * AXES[0], CENTRE[1], 0, 1] for side in (1, -1)]
        transform = similarity_from_landmarks(ends[0][:3], ends[1][:3], ends[0][:3] / 2 + ends[1][:3] / 2 + [0, 0, 30])
    else:
        transform = similarity_from_landmarks(*(np.array(LANDMARKS[key]) for key in ("front", "back", "top")))
        values = 3 * volume.array.astype(float)
    mr = Volume(values.astype(np.int16), volume.ijk_to_ras)
    confidence = Volume((values > 0).astype(np.float32), volume.ijk_to_ras)
    return Synthesis(mr, transform, confidence, {"alignment": {"score": 0.9}, "alignment_trusted": True})


SIZES = evaluate.Sizes(negatives=None, consistency=2, identity=4, planes=0, insides=4, heads=0, crops=4, bodies=0)


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    for seed in (1, 2):
        np.savez(tmp_path / f"GA24-made-000{seed}.npz", **simulated_case(seed))
    return tmp_path


def test_every_headline_is_measured_and_right(
    data: Path, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "synthesize", product)
    result, poses = evaluate.evaluate(data, sizes=SIZES, simulated=simulated)
    missing = set(evaluate.HEADLINES) - set(result)
    assert missing <= {"plexus_ring_auc"}  # none is marked
    assert result["volumes_accepted_share"] == 1 and result["rotation_deg_median"] == pytest.approx(0, abs=1e-4)
    assert result["cavum_auc"] > 0.99 > result["cavum_auc_fitted_atlas"]
    assert result["cavum_auc_covered"] > 0.99  # this product draws a cavum whatever it is shown
    assert result["face_end_right_share"] == 1 and result["identity_auc"] > 0.9
    assert result["midline_pose_deg_median"] == pytest.approx(0, abs=0.1)
    assert result["midline_pose_mm_median"] == pytest.approx(1.0, abs=0.05)
    assert result["no_brain_accepted_share"] == 0.5 and result["no_brain"]["abdomen"]["images"] == 2
    assert result["no_brain"][BESIDE]["images"] == 4
    assert set(result["methods"]) == {"ours", "fitted atlas", "mean MR"}
    for method in result["methods"].values():
        assert {
            "cavum_auc",
            "falx_deg_median",
            "identity_auc",
            "flip_ncc_p10",
            "roughness_ratio",
            "kernel_distance",
        } <= set(method)
    assert 0 <= result["inside_two_sample_auc_2d"] <= result["inside_two_sample_auc"] <= 1
    assert {f"roughness_{view}" for view in ("axial", "coronal", "sagittal")} <= set(result)
    text = evaluate.table(result)
    assert "mean MR" in text and "one.nrrd" in text
    pictures.draw_volumes(data, cases.heads_3d(data), poses, tmp_path)
    pictures.draw_frames(data, tmp_path / "frames.png", model="default", device="cpu")
    assert {"one.png", "two.png", "frames.png"} <= {path.name for path in tmp_path.iterdir()}
    sheet = np.asarray(Image.open(tmp_path / "frames.png")).astype(int)
    assert sheet.std() > 10  # frames, and not an empty sheet


def test_a_frame_that_is_refused_is_tried_again_and_counts_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "synthesize", product)
    dark = Volume(np.full((1, *SIZE), WITHOUT_BRAIN, np.uint8), np.diag([-PIXEL, -PIXEL, PIXEL, 1.0]))
    result, accepted = cases.run(dark, model="default", device="cpu")
    assert result is not None and not accepted
    assert not cases.is_accepted(dark, model="default", device="cpu")


def test_a_missing_folder_of_simulated_heads_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["evaluate", "real", "--data", str(data), "--simulated", str(data / "none")])
    assert code == 2 and "There is no folder none." in capsys.readouterr().err
