"""A transform that cannot be this image's is refused, one that may not be is doubted."""

from __future__ import annotations

import numpy as np
import pytest
from USMRISynthesisLib.alignment.align import align
from USMRISynthesisLib.alignment.common.given import check_given_transform, share_in_fan
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.synthesis import pipeline
from USMRISynthesisLib.ultrasound.gate import admit


def true_transform(volume, size=1.0) -> np.ndarray:
    """To canonical space of the head in the fixtures, whose length is 88 mm."""
    matrix = np.diag([size, size, size, 1.0])
    centre = volume.ijk_to_ras @ [*((np.array(volume.shape[::-1]) - 1) / 2), 1]
    matrix[:3, 3] = -size * centre[:3]
    return matrix


@pytest.mark.parametrize("name", ["head", "frame"])
def test_the_share_of_the_head_in_the_fan(request, name):
    volume = request.getfixturevalue(name)
    fan = admit(volume)
    matrix = true_transform(volume)
    share = share_in_fan(align(volume, fan, transform=matrix), volume, fan)
    assert share > 0.9
    matrix[0, 3] += 30
    assert 0.2 < share_in_fan(align(volume, fan, transform=matrix), volume, fan) < share


@pytest.mark.parametrize("name", ["head", "frame"])
@pytest.mark.parametrize("shift", [(500, 0, 0), (0, -120, 0)])
def test_a_transform_that_puts_the_head_elsewhere_is_refused(request, name, shift):
    volume = request.getfixturevalue(name)
    matrix = true_transform(volume)
    matrix[:3, 3] += shift
    with pytest.raises(Refused, match="outside the ultrasound") as refusal:
        pipeline.normalise(volume, transform=matrix)
    assert refusal.value.kind == "transform" and "not back" in refusal.value.remedy


def test_a_transform_that_puts_half_the_head_elsewhere_is_doubted(head):
    fan = admit(head)
    matrix = true_transform(head)
    assert check_given_transform(align(head, fan, transform=matrix), head, fan) == ""
    matrix[0, 3] += 62
    logged = []
    pipeline.normalise(head, transform=matrix, log=lambda level, text: logged.append((level, text)))
    assert [level for level, text in logged if "of the head lie in the ultrasound" in text] == ["warning"]
