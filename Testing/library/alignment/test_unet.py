"""The U-Net in two and three dimensions, and the names of its layers, which stored models depend on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from USMRISynthesisLib.alignment.common.unet import UNet, cell_centres, fold, unfold
from USMRISynthesisLib.alignment.frame.network import FrameNetwork
from USMRISynthesisLib.alignment.volume.network import STAGES, AlignmentNetwork

MODELS = Path(__file__).resolve().parents[3] / "model_weights"
# What the storage in eight bits adds to a convolution: its scale, and the bias into which batch norm is folded.
ADDED = ("largest", "bias")


@pytest.mark.parametrize("dims", [2, 3])
def test_the_trunk_halves_the_resolution_and_keeps_the_first_width(dims: int) -> None:
    torch.manual_seed(0)
    trunk = UNet(dims, (4, 8), 16).eval()
    y = trunk.trunk(torch.rand(2, 1, *[16] * dims) * 2 - 1)
    assert y.shape == (2, 4, *[8] * dims) and torch.isfinite(y).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_features_depend_on_the_position(dims: int) -> None:
    """The same content everywhere gives different features in different places."""
    torch.manual_seed(0)
    y = UNet(dims, (4, 8), 16).eval().trunk(torch.zeros(1, 1, *[16] * dims))[0, :, 4]
    assert (y[:, 2] - y[:, 5]).abs().max() > 1e-3


def test_a_side_that_does_not_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="20 cells do not halve 3 times"):
        UNet(2, (4, 4, 4), 20)


def test_folding_in_two_dimensions_keeps_neighbours_together() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert fold(x)[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert fold(x)[0, :, 1, 0].tolist() == [8, 9, 12, 13]


def test_unfolding_undoes_folding_in_three_dimensions() -> None:
    x = torch.randn(3, 1, 4, 6, 8)
    torch.testing.assert_close(unfold(fold(x), 1), x)


def test_cell_centres_are_ordered_x_first() -> None:
    assert cell_centres(2, 2).tolist() == [[[-0.5, 0.5], [-0.5, 0.5]], [[-0.5, -0.5], [0.5, 0.5]]]
    assert cell_centres(4, 3)[2, :, 0, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]


@pytest.mark.parametrize("stage", STAGES)
def test_the_layers_of_the_shipped_alignment_model_are_the_networks(stage: str) -> None:
    form = STAGES[stage]
    network = AlignmentNetwork(form.widths, form.size, form.maps, form.upright)
    ours = {name: value.shape for name, value in network.state_dict().items()}
    stored = getattr(torch.jit.load(MODELS / "alignment" / "model.pt", "cpu"), stage).state_dict()
    weights = {name: value.shape for name, value in stored.items() if not name.endswith(ADDED) and name != "places"}
    assert len(weights) > 10 and weights.items() <= ours.items()


def test_the_shipped_outline_model_loads_into_the_network_and_predicts_the_same() -> None:
    shipped = torch.jit.load(MODELS / "frames" / "model.pt", "cpu").float().eval().outline
    network = FrameNetwork().eval()
    state = shipped.state_dict()
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    x = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(network(x), shipped(x), atol=1e-4, rtol=1e-4)
