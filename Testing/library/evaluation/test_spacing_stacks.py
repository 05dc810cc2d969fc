"""Agreement of real stacks: slices that moved are found, figures are over stacks, pictures show three planes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories.spacing import oblique, spacing_model
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.spacing import stacks
from USMRISynthesisLib.evaluation.spacing.slices import moves_of_slices
from USMRISynthesisLib.evaluation.spacing.stacks import CUBIC, Agreement, compare_stacks, summary
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing.model import load_model

SIDE = 60  # mm of the made-up head's cube, 1 mm a voxel


def head() -> Volume:
    """A ball of blobs, 1 mm, on an oblique grid."""
    blobs = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal((SIDE,) * 3), 2.5)
    places = np.indices(blobs.shape) - (SIDE - 1) / 2
    ball = np.square(places).sum(0) < 26**2
    return Volume((ball * (300 + 100 * blobs / blobs.std())).astype(np.float32), oblique((1, 1, 1)))


def acquired(truth: Volume, axis: int, moves: np.ndarray) -> tuple[Volume, Volume]:
    """Slices of 3 mm along an axis of the array, each seen where its move (RAS to RAS of the truth) brings it; mask."""
    count = SIDE // 3
    step = np.eye(4)
    step[2 - axis, 2 - axis], step[2 - axis, 3] = 3.0, 1.0
    to_ras = truth.ijk_to_ras @ step
    shape = [SIDE] * 3
    shape[axis] = count
    voxels = np.indices(shape)
    ijk = np.stack([*voxels[::-1], np.ones(shape)]).reshape(4, -1)
    back = np.linalg.inv(truth.ijk_to_ras)
    of_slice = np.stack([back @ move @ to_ras for move in moves])[voxels[axis].ravel()]
    places = np.einsum("nab,bn->an", of_slice, ijk)[2::-1]
    array = ndimage.map_coordinates(truth.array, places, order=1).reshape(shape).astype(np.float32)
    return Volume(array, to_ras), Volume((array > 50).astype(np.uint8), to_ras)


def moved(turn: tuple[float, float, float], shift: tuple[float, float, float], centre: np.ndarray) -> np.ndarray:
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    move[:3, 3] = centre - move[:3, :3] @ centre + shift
    return move


def test_every_slice_is_found_where_it_moved_to() -> None:
    truth = head()
    centre = (truth.ijk_to_ras @ [SIDE / 2, SIDE / 2, SIDE / 2, 1])[:3]
    rng = np.random.default_rng(2)
    moves = np.stack([moved(tuple(rng.normal(0, 3, 3)), tuple(rng.normal(0, 1.2, 3)), centre) for _ in range(20)])
    stack, mask = acquired(truth, 1, moves)
    filled = Volume((truth.array > 50).astype(np.uint8), truth.ijk_to_ras)
    found = moves_of_slices(stack, mask, truth, filled, np.eye(4))
    points = centre + np.array([[0, 0, 0], [15, 0, 0], [0, 15, 0], [0, 0, 15]])
    points = np.c_[points, np.ones(4)].T
    missed = [np.linalg.norm((one - move) @ points, axis=0).mean() for one, move in zip(found, moves, strict=True)]
    before = [np.linalg.norm((np.eye(4) - move) @ points, axis=0).mean() for move in moves]
    assert np.median(missed[4:-4]) < 0.4 * np.median(before[4:-4])


def test_slices_without_brain_follow_the_stack() -> None:
    truth = head()
    stack, mask = acquired(truth, 0, np.broadcast_to(np.eye(4), (20, 4, 4)))
    filled = Volume((truth.array > 50).astype(np.uint8), truth.ijk_to_ras)
    found = moves_of_slices(stack, mask, truth, filled, np.eye(4))
    assert np.allclose(found[0], found[-1])  # nothing of the ball is in either
    assert np.abs(found[0] - np.eye(4)).max() < 0.5


def test_figures_are_means_over_stacks_and_differences_to_cubic() -> None:
    rows = [
        Agreement(run, other, method, value + 0.1 * run, 0.4)
        for run, other in ((2, 4), (2, 6), (4, 2))
        for method, value in ((CUBIC, 0.2), ("ours", 0.23))
    ]
    result = summary(rows)
    assert result["ours"]["ncc"][0] == pytest.approx((0.43 + 0.63) / 2)  # of stacks, not of pairs
    assert result["ours"]["ahead_of_cubic"] == pytest.approx([0.03] * 3)
    assert result[CUBIC]["ncc"][1] == pytest.approx(0.4) and result[CUBIC]["ncc"][2] == pytest.approx(0.6)
    assert result[CUBIC]["ncc_one_rigid_move"] == pytest.approx(0.4)


def test_stacks_are_compared_with_orthogonal_ones_and_drawn(
    tmp_path: Path, config_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = head()
    folder = tmp_path / "fetal-mr-stacks"
    for name in ("stacks", "masks"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setattr(stacks, "ORIENTATION_OF_RUN", {2: "axial", 4: "coronal"})
    for run, axis in ((2, 0), (4, 1)):
        stack, mask = acquired(truth, axis, np.broadcast_to(np.eye(4), (20, 4, 4)))
        stack.write(folder / "stacks" / f"sub-01_run-{run}_T2w.nii.gz")
        mask.write(folder / "masks" / f"sub-01_run-{run}_T2w_desc-brain_mask.nii.gz")
    loaded = load_model(str(spacing_model(tmp_path / "model", config_dir)), "cpu")
    result = compare_stacks(tmp_path, loaded, tmp_path / "pictures")
    assert set(result["real"]) == {"run-2 with run-4", "run-4 with run-2"}
    assert 0.8 < result["real_stacks"][CUBIC]["ncc"][0] < 1
    assert result["real_stacks"][CUBIC]["ahead_of_cubic"] == [0, 0, 0]
    picture = np.asarray(Image.open(tmp_path / "pictures" / "run-4.png"))
    assert picture.std() > 20 and picture.shape[0] > 3 * 3 * SIDE - 50  # three planes, three times as large


def test_absent_stacks_are_refused(tmp_path: Path, config_dir: Path) -> None:
    loaded = load_model(str(spacing_model(tmp_path / "model", config_dir)), "cpu")
    with pytest.raises(Refused, match="no real stacks"):
        compare_stacks(tmp_path, loaded)
