"""Weights stored as bytes: the outputs stay what they were, and batch norms go into the convolutions before them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from USMRISynthesisLib.alignment.volume.network import AlignmentNetwork
from USMRISynthesisLib.models.quantisation import ByteConvolution, in_eight_bits
from USMRISynthesisLib.synthesis.reliability import CONDITIONS, IMAGES, ReliabilityNetwork
from USMRISynthesisLib.training.common import torchscript


def seen_some(network: nn.Module, *example: torch.Tensor) -> nn.Module:
    """Its batch norms have met data, so that they are more than the identity."""
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.uniform_(layer.weight, 0.5, 2)
                nn.init.uniform_(layer.bias, -0.5, 0.5)
        network.train()(*example)
    return network.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1), ((1, 3), (0, 1))])
def test_a_convolution_is_off_by_no_more_than_half_a_step_of_each_channel(bias, kernel, padding):
    torch.manual_seed(1)
    layer = nn.Conv2d(5, 7, kernel, padding=padding, bias=bias)
    with torch.no_grad():
        layer.weight[3] *= 1000  # one channel's size is no other's
        layer.weight[4] = 0
    stored = ByteConvolution(layer)
    x = torch.rand(2, 5, 9, 8)
    off = (stored(x) - layer(x)).abs().amax(dim=(0, 2, 3))
    most = layer.weight.abs().amax(dim=(1, 2, 3)) / 127 / 2 * layer.weight[0].numel()
    assert (off <= most + 1e-5).all() and off.max() > 0
    assert stored.weight.dtype == torch.int8 and stored(x).shape == layer(x).shape


@pytest.mark.parametrize("options", [{"stride": 2}, {"groups": 5}, {"dilation": 2}, {"padding_mode": "reflect"}])
def test_other_convolutions_are_refused(options):
    with pytest.raises(ValueError, match="plain"):
        ByteConvolution(nn.Conv2d(5, 5, 3, padding=1, **options))


def test_a_support_network_says_the_same_and_stays_as_it_is():
    example = torch.rand(3, IMAGES + 2, 16, 16), torch.rand(3, CONDITIONS, 1, 1)
    network = seen_some(ReliabilityNetwork(), *example)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stored = in_eight_bits(network)
    assert not any(isinstance(layer, nn.Conv2d | nn.BatchNorm2d) for layer in stored.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        output, expected = stored(*example), network(*example)
    assert (output - expected).abs().max() < 0.05 * expected.abs().max()
    assert torch.corrcoef(torch.stack([output.flatten(), expected.flatten()]))[0, 1] > 0.999


def test_a_file_of_it_is_smaller_and_reads_back_the_same():
    example = torch.rand(2, IMAGES + 2, 16, 16), torch.rand(2, CONDITIONS, 1, 1)
    network = seen_some(ReliabilityNetwork(), *example)
    stored = in_eight_bits(network)
    half, _ = torchscript.stored(torchscript.traced(network, example))
    data, loaded = torchscript.stored(torchscript.traced(stored, example))
    assert len(data) < 0.6 * len(half)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*example), stored(*example), rtol=0.01, atol=0.01)


def test_an_alignment_network_says_the_same_in_either_precision():
    example = torch.rand(2, 1, 48, 48, 48) * 2 - 1
    network = seen_some(AlignmentNetwork((16, 32, 96), 48, 5, True), example)
    stored = in_eight_bits(network)
    assert not any(isinstance(layer, nn.Conv3d | nn.BatchNorm3d) for layer in stored.modules())
    data, loaded = torchscript.stored(torchscript.traced(stored, example))
    assert len(data) < 1.4 * sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        for output, rough, expected in zip(
            loaded(example), loaded.to(torch.bfloat16)(example.bfloat16()), network(example), strict=True
        ):
            assert (output - expected).abs().max() < 0.05 * expected.abs().max()
            assert (rough.float() - expected).abs().max() < 0.1 * expected.abs().max()
