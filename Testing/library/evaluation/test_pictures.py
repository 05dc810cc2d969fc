"""The comparison picture: right planes, right scale, right side, marked as synthetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from USMRISynthesisLib.evaluation.pictures import comparison as pictures
from USMRISynthesisLib.evaluation.pictures.comparison import PIXEL_MM, Case, compare
from USMRISynthesisLib.io.volume import Volume


def _mr_of(volume: Volume) -> Volume:
    return Volume(np.where(volume.array > 60, volume.array.astype(np.int16) * 4, 0), volume.ijk_to_ras)


def _has_notice(picture: np.ndarray) -> bool:
    return bool((np.abs(picture.astype(int) - pictures.NOTICE).sum(axis=-1) < 30).sum() > 50)


def test_a_volume_gives_three_planes_and_a_frame_one_row_in_one_picture(
    head: Volume, frame: Volume, tmp_path: Path
) -> None:
    compare([Case("3D", head, _mr_of(head), np.eye(4)), Case("2D", frame, _mr_of(frame))], tmp_path / "compare.png")
    both = Image.open(tmp_path / "compare.png")
    compare([Case("3D", head, _mr_of(head))], tmp_path / "one.png")
    assert both.mode == "RGB" and both.width > 500 and both.height > Image.open(tmp_path / "one.png").height
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.png", "one.png"]


def test_only_the_synthetic_panels_carry_the_notice(head: Volume, tmp_path: Path) -> None:
    compare([Case("3D", head, _mr_of(head))], tmp_path / "compare.png")
    picture = np.asarray(Image.open(tmp_path / "compare.png"))
    third = picture.shape[1] // 3
    assert not _has_notice(picture[:, :third])
    assert _has_notice(picture[:, third : 2 * third]) and _has_notice(picture[:, 2 * third :])


def test_unreliable_voxels_are_covered_in_a_fourth_panel(head: Volume, frame: Volume, tmp_path: Path) -> None:
    mr = _mr_of(head)
    reliability = np.where(np.arange(head.shape[2]) < head.shape[2] // 2, 0.1, 0.95) * np.ones(head.shape)
    case = Case("", head, mr, reliability=Volume(reliability.astype(np.float32), head.ijk_to_ras))
    for name, _, panels in pictures._rows(case):
        assert len(panels) == 4
        plain, covered = (np.asarray(panels[n]).astype(int) for n in (1, 3))
        red = covered[..., 0] - covered[..., 2] > 40
        if name == "sagittal":  # where all of it is reliable
            assert not red.any()
            continue
        assert 0.02 < red.mean() < 0.7 and (covered[~red] == plain[~red]).mean() > 0.97
        assert red[(plain == 0).all(axis=-1)].mean() < 0.03  # no cover where there is no MR
    one = Volume(np.full(frame.shape, 0.5, np.float32), frame.ijk_to_ras)
    compare([case, Case("2D", frame, _mr_of(frame), reliability=one), Case("3D", head, mr)], tmp_path / "compare.png")
    assert Image.open(tmp_path / "compare.png").width > 600


def test_the_fitted_atlas_is_the_last_panel_with_or_without_a_reliability_map(head: Volume, tmp_path: Path) -> None:
    mr = _mr_of(head)
    atlas = Volume(np.where(mr.array > 0, 500, 0).astype(np.int16), head.ijk_to_ras)
    sure = Volume((mr.array > 0).astype(np.float32), head.ijk_to_ras)
    for reliability, count in ((None, 4), (sure, 5)):
        for _, _, panels in pictures._rows(Case("", head, mr, reliability=reliability, atlas=atlas)):
            assert len(panels) == count
            shown, last = (np.asarray(panels[n])[..., 0] for n in (1, -1))
            assert (last > 250).any() and (last[shown == 0] < 255).mean() > 0.97
    compare([Case("3D", head, mr, reliability=sure, atlas=atlas), Case("3D", head, mr)], tmp_path / "compare.png")
    assert Image.open(tmp_path / "compare.png").width > 600


def test_panels_share_one_physical_scale_whatever_the_spacing() -> None:
    coarse = Volume(np.full((20, 30, 40), 100, np.int16), np.diag([2.0, 1.0, 3.0, 1.0]))
    rows = pictures._rows(Case("", coarse, coarse))
    height = {name: panels[0].height for name, _, panels in rows}
    margin = 2 * 12.0
    assert height["axial"] == pytest.approx((29 * 1.0 + margin) / PIXEL_MM, abs=2)
    assert height["coronal"] == height["sagittal"] == pytest.approx((19 * 3.0 + margin) / PIXEL_MM, abs=2)


@pytest.mark.parametrize(
    "matrix", [np.eye(4), np.diag([-1.0, -1, 1, 1]), np.eye(4)[[1, 0, 2, 3]]], ids=["RAS", "LPS", "transposed"]
)
def test_the_right_side_is_on_the_left_and_anterior_is_up(matrix: np.ndarray) -> None:
    volume = Volume(np.full((40, 40, 40), 50, np.int16), matrix)
    spot = matrix @ [0, 0, 0, 1]  # bring the block's centre to the origin
    centre = matrix @ [19.5, 19.5, 19.5, 1]
    array = volume.array.copy()
    k, j, i = np.indices(array.shape)
    world = np.einsum("ab,bkji->akji", matrix[:3, :3], np.stack([i, j, k])) + spot[:3, None, None, None]
    beside = world - centre[:3, None, None, None]
    array[(beside[0] > 10) & (beside[1] > 10)] = 900  # right anterior
    axial = next(
        panels
        for name, _, panels in pictures._rows(Case("", Volume(array, matrix), Volume(array, matrix), np.eye(4)))
        if name == "axial"
    )
    picture = np.asarray(axial[1])[..., 0].astype(float)
    height, width = picture.shape
    halves = [(slice(0, n // 2), slice(n // 2, n)) for n in (height, width)]
    quarters = {(a, b): picture[halves[0][a], halves[1][b]].mean() for a in (0, 1) for b in (0, 1)}
    assert max(quarters, key=lambda q: quarters[q]) == (0, 0)  # up and left


def test_letters_stand_for_anatomy_only_when_the_head_was_aligned(head: Volume) -> None:
    assert all(letters == ("", "", "", "") for _, letters, _ in pictures._rows(Case("", head, _mr_of(head))))
    aligned = {name: letters for name, letters, _ in pictures._rows(Case("", head, _mr_of(head), np.eye(4)))}
    assert aligned == {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}


def test_an_empty_result_still_gives_a_picture(head: Volume, tmp_path: Path) -> None:
    nothing = Volume(np.zeros(head.shape, np.int16), head.ijk_to_ras)
    compare([Case("3D", head, nothing)], tmp_path / "compare.png")
    assert (tmp_path / "compare.png").stat().st_size > 1000
