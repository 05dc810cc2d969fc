"""With a given transform the networks outline the head, and the pose stays as it was given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from USMRISynthesisLib.alignment import given_pose
from USMRISynthesisLib.alignment.common.confidence import FrameFeatures
from USMRISynthesisLib.alignment.common.pyramid import plane_of
from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.frame import outline as frame_outline
from USMRISynthesisLib.alignment.given_pose import outline_in_pose
from USMRISynthesisLib.alignment.volume import model as volume_model
from USMRISynthesisLib.alignment.volume.network import BRAIN, HEAD, HEAD_FINE, LOG_SIGMA, SKULL, STAGES, X, Z
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis import pipeline

HEAD_CENTRE, HEAD_AXES = np.array([12.0, -20.0, 31.0]), np.array([33.0, 46.0, 37.0])  # RAS mm
OBLIQUE = Rotation.from_euler("xyz", [25, -40, 70], degrees=True).as_matrix()
# Of voxels i, j, k in RAS: orthogonal, oblique, left-handed, and left-handed with uneven voxels.
GRIDS = {
    "plain": (np.eye(3), (1.5, 1.5, 1.5)),
    "oblique": (OBLIQUE, (1.2, 1.6, 2.0)),
    "left-handed": (np.diag([-1.0, 1.0, 1.0]), (1.5, 1.5, 1.5)),
    "oblique and left-handed": (OBLIQUE @ np.diag([1.0, 1.0, -1.0]), (2.0, 1.2, 1.5)),
}


def head_rotation(degrees: float) -> np.ndarray:
    return Rotation.from_rotvec(np.deg2rad(degrees) * np.array([0.6, -0.5, 0.62])).as_matrix()


def bright_head(grid: str, turned: np.ndarray) -> tuple[Volume, np.ndarray]:
    """A bright ellipsoid in the dark, its axes turned in RAS; and where it truly lies, (k, j, i) bool."""
    directions, spacing = GRIDS[grid]
    shape = tuple(int(150 / step) for step in spacing[::-1])
    matrix = np.eye(4)
    matrix[:3, :3] = directions * spacing
    matrix[:3, 3] = HEAD_CENTRE - matrix[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2 + (3, -2, 4))
    truth = Alignment(np.eye(4), HEAD_CENTRE, HEAD_AXES, turned, 1.0, "given").head_on(matrix, shape)
    return Volume(np.where(truth, 200, 10).astype(np.uint8), matrix), truth


class SeesBrightness:
    """A network `refine` that takes what is bright for the head; it sees its axes turned by `turned` in the cube."""

    def __init__(self, turned: np.ndarray) -> None:
        self.turned = turned

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        size = STAGES["refine"].size
        inside = x[0, 0].numpy() > 0
        maps = np.zeros((5, size, size, size))
        maps[HEAD_FINE] = maps[BRAIN] = np.where(inside, 8, -8)
        distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
        maps[SKULL] = distance - 0.5 * np.sign(distance)
        cells = cell_centres(size // 2, 3).numpy()
        fields = np.zeros((6, *cells.shape[1:]))
        fields[HEAD] = np.where(inside[::2, ::2, ::2], 8, -8)
        fields[X : Z + 1] = np.tensordot(self.turned, cells, 1)
        fields[LOG_SIGMA] = -4
        return torch.from_numpy(maps).float()[None], torch.from_numpy(fields).float()[None]


def installed(monkeypatch, turned: np.ndarray) -> None:
    networks = volume_model.Networks({"refine": SeesBrightness(turned)})
    monkeypatch.setattr(volume_model, "load_networks", lambda *_, **__: networks)


def pose_of(rotation: np.ndarray, scale: float = 0.95, shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = np.asarray(shift) - matrix[:3, :3] @ HEAD_CENTRE
    return matrix


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("wrong_deg", [0.0, 18.0])
def test_the_outline_is_the_networks_and_the_pose_the_given_one(monkeypatch, grid, wrong_deg):
    turned = head_rotation(30)
    volume, truth = bright_head(grid, turned)
    given = pose_of(head_rotation(wrong_deg) @ turned.T, shift=(2.0, -3.0, 1.0))
    installed(monkeypatch, head_rotation(wrong_deg).T)
    found = outline_in_pose(volume, np.ones(volume.shape, bool), given, model="alignment")
    np.testing.assert_array_equal(found.ras_to_canonical, given)
    assert found.method == "given" and found.doubt == "" and found.score > 0.9
    outline = found.head_on(volume.ijk_to_ras, volume.shape)
    assert dice(outline, truth) > 0.95
    assert (truth & ~outline).sum() < 0.01 * truth.sum()  # hardly anything of the head is cut off


def test_a_transform_that_shears_is_kept_and_the_head_is_outlined(monkeypatch):
    volume, truth = bright_head("oblique", np.eye(3))
    given = pose_of(np.eye(3))
    given[:3] = np.array([[1, 0.1, 0], [0, 1, -0.08], [0, 0, 1]]) @ given[:3]
    installed(monkeypatch, np.eye(3))
    found = outline_in_pose(volume, np.ones(volume.shape, bool), given, model="alignment")
    np.testing.assert_array_equal(found.ras_to_canonical, given)
    outline = found.head_on(volume.ijk_to_ras, volume.shape)  # its axes are not those of the sheared head: it is wider
    assert dice(outline, truth) > 0.88 and (truth & ~outline).sum() < 0.01 * truth.sum()


@pytest.mark.parametrize("case", ["elsewhere", "no head", "too large"])
def test_an_outline_that_is_not_credible_gives_way_with_a_doubt(monkeypatch, case):
    volume, _ = bright_head("plain", np.eye(3))
    shift = (45.0, 0.0, 0.0) if case == "elsewhere" else (0.0, 0.0, 0.0)
    given = pose_of(np.eye(3), scale=0.5 if case == "too large" else 0.95, shift=shift)
    if case == "no head":
        volume = volume.with_values(np.random.default_rng(0).integers(1, 60, volume.shape, dtype=np.uint8))
        volume.array[0, 0, 0] = 255
    installed(monkeypatch, np.eye(3))
    fan = np.ones(volume.shape, bool)
    found = outline_in_pose(volume, fan, given, model="alignment")
    fitted = outline_in_pose(volume, fan, given, model=None)
    assert "no head where the transform given puts it" in found.doubt and fitted.doubt == ""
    np.testing.assert_array_equal(found.head_on(volume.ijk_to_ras, volume.shape),
                                  fitted.head_on(volume.ijk_to_ras, volume.shape))  # fmt: skip


def test_without_torch_the_skull_is_fitted_without_a_doubt(monkeypatch):
    def broken(*_, **__):
        raise ImportError("no torch")

    monkeypatch.setattr(volume_model, "load_networks", broken)
    volume, _ = bright_head("plain", np.eye(3))
    found = outline_in_pose(volume, np.ones(volume.shape, bool), pose_of(np.eye(3)), model="alignment")
    assert found.method == "given" and found.doubt == ""


@pytest.mark.parametrize("model", ["alignment", None])
@pytest.mark.parametrize("matrix", [np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan)])
def test_a_transform_that_cannot_be_inverted_is_refused(matrix, model):
    volume, _ = bright_head("plain", np.eye(3))
    with pytest.raises(Refused, match="not an invertible 4x4 matrix"):
        outline_in_pose(volume, np.ones(volume.shape, bool), matrix, model=model)


def frame_and_ellipse(left_handed: bool) -> tuple[Volume, frame_outline.Outlined]:
    """An oblique frame, and an ellipse that a network finds in it: 100 by 78 mm, its major axis 20 degrees off rows."""
    directions = OBLIQUE @ np.diag([1.0, -1.0, 1.0]) if left_handed else OBLIQUE
    matrix = np.eye(4)
    matrix[:3, :3] = directions * (0.5, 0.6, 1.0)
    matrix[:3, 3] = (5.0, -7.0, 11.0)
    volume = Volume(np.random.default_rng(0).integers(1, 255, (1, 220, 260), dtype=np.uint8), matrix)
    plane_to_ras, to_plane = plane_of(volume)
    centre = (to_plane @ [130, 110, 1])[:2]
    c, s = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
    ellipse = Ellipse(centre, np.array([[c, -s], [s, c]]) @ np.diag([50.0, 39.0]))
    features = FrameFeatures(3.0, 1.0, 0.5, 0.5, 0.95, 1.0)
    return volume, frame_outline.Outlined(ellipse, plane_to_ras, np.array([c, s]), 3.0, features, 0.9)


def given_for(found: frame_outline.Outlined, turned_deg: float, shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    """To canonical space: the ellipse's major axis along A but for `turned_deg`, its length 88 mm."""
    anterior = found.plane_to_ras[:3, :2] @ found.ellipse.directions[:, 0]
    superior = found.plane_to_ras[:3, 2]
    axes = np.stack([np.cross(anterior, superior), anterior, superior])
    turn = Rotation.from_euler("z", turned_deg, degrees=True).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = 88 / 100 * turn @ axes
    centre = found.plane_to_ras[:3, :2] @ found.ellipse.centre + found.plane_to_ras[:3, 3]
    matrix[:3, 3] = np.asarray(shift) - matrix[:3, :3] @ centre
    return matrix


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("turned_deg", [0.0, 15.0])
def test_a_frames_outline_is_the_networks_in_the_given_plane(monkeypatch, left_handed, turned_deg):
    volume, seen = frame_and_ellipse(left_handed)
    monkeypatch.setattr(frame_outline, "load_network", lambda *_, **__: None)
    monkeypatch.setattr(frame_outline, "find_outline", lambda *_: seen)
    given = given_for(seen, turned_deg, shift=(3.0, -4.0, 5.0))
    found = outline_in_pose(volume, np.ones(volume.shape, bool), given, model="frames")
    np.testing.assert_array_equal(found.ras_to_canonical, given)
    assert found.method == "given" and found.doubt == "" and found.score == seen.score
    i, j = np.meshgrid(np.arange(260), np.arange(220))
    to_plane = plane_of(volume)[1]
    places = np.tensordot(to_plane[:2, :2], np.stack([i, j]), 1) + to_plane[:2, 2][:, None, None]
    truth = seen.ellipse.distance(places) < 0
    assert dice(found.head_on(volume.ijk_to_ras, volume.shape)[0], truth) > 0.995


@pytest.mark.parametrize("case", ["elsewhere", "none"])
def test_a_frames_outline_that_is_not_credible_gives_way_with_a_doubt(monkeypatch, case):
    volume, seen = frame_and_ellipse(False)
    monkeypatch.setattr(frame_outline, "load_network", lambda *_, **__: None)
    monkeypatch.setattr(frame_outline, "find_outline", lambda *_: seen if case == "elsewhere" else None)
    given = given_for(seen, 0.0, shift=(45.0, 0.0, 0.0) if case == "elsewhere" else (0.0, 0.0, 0.0))
    found = outline_in_pose(volume, np.ones(volume.shape, bool), given, model="frames")
    assert found.doubt and found.method == "given"


def test_the_doubt_about_the_outline_is_a_warning_of_the_run(head, monkeypatch):
    aligned = given_pose.align_skull(head, np.ones(head.shape, bool), transform=np.eye(4))
    monkeypatch.setattr(pipeline, "align", lambda *_, **__: replace(aligned, doubt="Look at the outline."))
    monkeypatch.setattr(pipeline, "check_given_transform", lambda *_: "")
    logged = []
    made = pipeline.normalise(head, transform=np.eye(4), log=lambda level, text: logged.append((level, text)))
    assert ("warning", "Look at the outline.") in logged
    assert "Look at the outline." in made.provenance["warnings"]


def test_the_shipped_networks_outline_the_sample_in_a_pose_that_is_a_little_off():
    from USMRISynthesisLib.alignment.align import FRAMES_MODEL, MODEL, align, is_installed
    from USMRISynthesisLib.ultrasound.gate import admit

    assert is_installed(MODEL) and is_installed(FRAMES_MODEL)
    sample = Volume.read(Path(__file__).resolve().parents[3] / "Resources/SampleData/fetal-head-simulated.nrrd")
    fan = admit(sample)
    free = align(sample, fan)
    off = np.eye(4)
    off[:3, :3] = head_rotation(10)
    found = align(sample, fan, transform=off @ free.ras_to_canonical)
    assert found.doubt == ""
    one, other = (outline.head_on(sample.ijk_to_ras, sample.shape) for outline in (free, found))
    assert (one & ~other).sum() < 0.03 * one.sum() and dice(one, other) > 0.94
