"""MR volumes into canonical space, on the template's own brains turned any way round."""

from __future__ import annotations

import json

import numpy as np
import pytest
from factories.mr import brain
from USMRISynthesisLib.datasets.mr_registration.register import align_mr
from USMRISynthesisLib.datasets.mr_registration.search import even_rotations
from USMRISynthesisLib.datasets.mr_registration.template import templates
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.similarity import angle_deg, random_rotation, rotation_of, scale_of
from USMRISynthesisLib.io.volume import Volume


def test_the_template_is_small_and_holds_every_age():
    from USMRISynthesisLib.datasets.mr_registration.template import TEMPLATE

    assert TEMPLATE.stat().st_size <= 200_000
    assert sorted({template.week for template in templates()}) == [23, 27, 32]
    for template in templates():
        assert template.t2[template.brain].mean() > 0.3 and (template.skull & ~template.brain).any()


def test_even_rotations_leave_no_orientation_far_away():
    turns = even_rotations(600)
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3)) and np.allclose(np.linalg.det(turns), 1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        wanted = random_rotation(rng)
        assert min(angle_deg(turn, wanted) for turn in turns) < 30


def test_a_turned_brain_with_its_mask_is_found():
    volume, placed = brain(3)
    found = align_mr(volume, volume.array > 0)
    error = found.ras_to_canonical @ placed
    assert angle_deg(rotation_of(error), np.eye(3)) < 3 and np.linalg.norm(error[:3, 3]) < 2
    assert abs(scale_of(error) - 1) < 0.05 and found.is_reliable
    assert found.template is templates()[3]


def test_noise_in_a_brain_s_outline_is_not_called_reliable():
    volume, _ = brain(0)
    rng = np.random.default_rng(0)
    mask = volume.array > 0
    noise = Volume(np.where(mask, rng.integers(0, 700, volume.shape), 0).astype(np.int16), volume.ijk_to_ras)
    assert not align_mr(noise, mask).is_reliable


@pytest.mark.parametrize(("change", "kind"), [
    (lambda a: a[:3], "slices"), (lambda a: np.zeros_like(a), "constant"), (lambda a: a * np.nan, "type"),
])  # fmt: skip
def test_what_is_no_volume_is_refused(change, kind):
    volume, _ = brain(0)
    with pytest.raises(Refused) as stopped:
        align_mr(Volume(change(volume.array.astype(np.float32)), volume.ijk_to_ras))
    assert stopped.value.kind == kind


def test_an_empty_mask_is_refused():
    volume, _ = brain(0)
    with pytest.raises(Refused, match="empty"):
        align_mr(volume, np.zeros(volume.shape, bool))


def test_figures_without_a_reliable_or_a_wrong_volume_are_none_and_plain_json() -> None:
    from USMRISynthesisLib.evaluation.alignment import mr as mr_normalisation

    good = np.array([[2.0, 1.0, 0.5, 0.8, 0.1, 1.0, 3.0]])
    doubtful = np.array([[2.0, 1.0, 0.5, 0.6, 0.1, 0.0, 3.0]])
    figures = {"good": mr_normalisation._figures(good), "doubtful": mr_normalisation._figures(doubtful)}
    assert figures["good"]["rotation_deg_worst"] == 2.0 and figures["good"]["score_most_of_wrong"] is None
    assert figures["doubtful"]["rotation_deg_median"] is None and figures["doubtful"]["not_reliable_share"] == 1.0
    assert "NaN" not in json.dumps(figures)
    assert "none" in mr_normalisation.table(figures)
