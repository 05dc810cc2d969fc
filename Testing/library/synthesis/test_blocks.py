"""Encoders, decoders and the generator: shapes, skips, the two forward paths, the input's channels."""

from __future__ import annotations

import copy

import pytest
import torch
from USMRISynthesisLib.synthesis.blocks import Decoder, Encoder
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig
from USMRISynthesisLib.synthesis.norms import group_norm, instance_norm
from USMRISynthesisLib.synthesis.slices import assemble_input
from USMRISynthesisLib.training.synthesis.networks import BackwardPath

CHANNELS = (4, 8, 8)


def small(**changes) -> GeneratorConfig:
    plain = {
        "width": 4,
        "multipliers": (1, 2, 2),
        "skips": (1,),
        "reconstruction_skips": (1,),
        "attention_level": 1,
    }
    return GeneratorConfig(**{**plain, **changes})


def awake(config: GeneratorConfig) -> Generator:
    """A generator whose attention takes part: eta is zero at the start."""
    torch.manual_seed(0)
    generator = Generator(config)
    if config.attention:
        torch.nn.init.normal_(generator.attention.eta.weight)
    return generator


def test_the_encoder_halves_the_image_at_each_level():
    features = Encoder(3, CHANNELS)(torch.randn(2, 3, 16, 24))
    assert [tuple(f.shape) for f in features] == [(2, 4, 16, 24), (2, 8, 8, 12), (2, 8, 4, 6)]


@pytest.mark.parametrize("skips", [(), (0,), (1,), (0, 1)])
def test_a_skip_level_is_read_if_and_only_if_it_is_set(skips):
    decoder = Decoder(CHANNELS, skips=skips, split_level=1)
    features = [torch.randn(1, c, s, s, requires_grad=True) for c, s in zip(CHANNELS, (16, 8, 4), strict=True)]
    image = decoder(features)
    assert image.shape == (1, 1, 16, 16) and image.abs().max() <= 1
    image.square().sum().backward()
    for level in (0, 1):
        assert (features[level].grad is not None) == (level in skips), level
    assert features[2].grad is not None


@pytest.mark.parametrize("width", [1, 3, 8, 14])
def test_any_width_can_be_normalised(width):
    assert Generator(small(width=width))(torch.randn(1, 4, 16, 16)).shape == (1, 1, 16, 16)


def test_the_generator_keeps_no_running_statistics():
    """Statistics of the simulated majority would be wrong for a real frame; and the average needs none."""
    assert list(Generator(small()).buffers()) == []


@pytest.mark.parametrize("split", [0, 1, 2])
def test_the_decoder_in_two_parts_is_the_decoder(split):
    decoder = Decoder(CHANNELS, skips=(0, 1), split_level=split)
    features = Encoder(1, CHANNELS)(torch.randn(1, 1, 16, 16))
    assert decoder.deep(features).shape == (1, CHANNELS[split], 16 >> split, 16 >> split)
    assert torch.equal(decoder.shallow(decoder.deep(features), features), decoder(features))


@pytest.mark.parametrize("level", [-1, 2])
def test_a_skip_outside_the_decoder_is_refused(level):
    with pytest.raises(ValueError, match="skip levels"):
        Decoder(CHANNELS, skips=(level,), split_level=1)


@pytest.mark.parametrize("neighbours", [0, 1, 2])
@pytest.mark.parametrize("location", [True, False])
def test_every_combination_of_neighbours_and_location_runs(neighbours, location):
    config = small(neighbours=neighbours, location=location)
    x = assemble_input(torch.randn(3, 16, 16), torch.tensor([-0.6, 0.0, 0.6]), neighbours, location)
    assert x.shape[1] == config.in_channels
    assert Generator(config)(x).shape == (3, 1, 16, 16)


def test_input_channels_are_the_slices_in_order_with_edges_repeated_and_the_location_last():
    slices = torch.arange(4.0).view(4, 1, 1).expand(4, 2, 3)
    x = assemble_input(slices, torch.tensor([-48.0, -24.0, 0.0, 24.0]), 2, True)
    assert x.shape == (4, 6, 2, 3)
    assert x[0, :, 0, 0].tolist() == [0, 0, 0, 1, 2, -1.0]
    assert x[3, :, 1, 2].tolist() == [1, 2, 3, 3, 3, 0.5]


def test_a_single_frame_is_its_own_neighbour():
    frame = torch.randn(1, 4, 4)
    x = assemble_input(frame, torch.zeros(1), 1, True)
    assert torch.equal(x[0, :3], frame.expand(3, 4, 4)) and x[0, 3].abs().max() == 0


def test_the_location_channel_reaches_the_output():
    """Instance norm straight after the first convolution would remove a constant channel."""
    generator = awake(small())
    x = torch.randn(1, 4, 16, 16)
    elsewhere = x.clone()
    elsewhere[:, 3] += 0.5
    inner = (generator(x) - generator(elsewhere))[..., 4:-4, 4:-4]
    assert inner.abs().max() > 1e-3


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_inference_gives_the_mr_of_training(attention, level):
    generator = awake(small(attention=attention, attention_level=level))
    x = torch.randn(2, 4, 16, 16)
    y, us, mr = generator.forward_training(x)
    assert y.shape == (2, 8, 4, 4) and us.shape == mr.shape == (2, 1, 16, 16)
    torch.testing.assert_close(generator(x), mr)


def test_at_inference_b_stops_where_attention_reads_it():
    generator = awake(small())
    generator.decoder_b.shallow_blocks = None
    generator.decoder_b.image = None
    assert generator(torch.randn(1, 4, 16, 16)).shape == (1, 1, 16, 16)


def test_the_gradient_reaches_every_parameter():
    generator, backward = awake(small()), BackwardPath(small().channels)
    _, us, mr = generator.forward_training(torch.randn(2, 4, 16, 16))
    y_back, us_back = backward(mr)
    (us.square().sum() + us_back.square().sum() + y_back.square().sum()).backward()
    for network in (generator, backward):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_backward_path_returns_a_latent_like_the_generators():
    y_back, us = BackwardPath(small().channels, skips=(1,))(torch.randn(2, 1, 16, 16))
    assert y_back.shape == (2, 8, 4, 4) and us.shape == (2, 1, 16, 16)


def test_samples_of_a_batch_do_not_mix():
    generator = awake(small()).eval()
    x = torch.randn(3, 4, 16, 16)
    alone = torch.cat([generator(sample[None]) for sample in x])
    torch.testing.assert_close(generator(x), alone, rtol=1e-5, atol=1e-5)


def test_scripted_and_traced_equal_eager():
    generator = awake(small()).eval()
    x = torch.randn(2, 4, 16, 16)
    torch.testing.assert_close(torch.jit.script(generator)(x), generator(x))
    torch.testing.assert_close(torch.jit.trace(generator, x)(x), generator(x))


def test_the_default_is_five_levels_from_160_to_10_with_no_skip_at_full_resolution():
    config = GeneratorConfig()
    assert config.levels == 5 and config.channels == (16, 32, 64, 128, 128) and config.in_channels == 4
    assert 0 not in config.skips and 0 not in config.reconstruction_skips


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"multipliers": (1,)},
        {"neighbours": -1},
        {"skips": (2,)},
        {"reconstruction_skips": (5,)},
        {"attention_level": 3},
        {"attention_norm": "sum"},
    ],
)
def test_an_impossible_configuration_is_refused(wrong):
    with pytest.raises(ValueError):
        small(**wrong)


@pytest.mark.parametrize("make", [instance_norm, group_norm])
@pytest.mark.parametrize("side", [20, 40])
def test_norms_give_the_same_in_evaluation_as_in_training_and_keep_the_layout(make, side) -> None:
    norm = make(16)
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
    x = 5 + 3 * torch.randn(3, 16, side, side)
    expected = norm.train()(x)
    assert torch.allclose(norm.eval()(x), expected, atol=2e-5)
    result = norm(x.to(memory_format=torch.channels_last))
    assert torch.allclose(result, expected, atol=2e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert norm.bfloat16()(x.bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize("make", [instance_norm, group_norm])
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_a_traced_norm_is_as_exact_in_bfloat16_as_bfloat16_and_in_float32_as_float32(make, mean) -> None:
    torch.manual_seed(0)
    norm = make(16).eval().requires_grad_(False)
    norm.weight.copy_(torch.empty(16).uniform_(0.5, 2).bfloat16())
    norm.bias.copy_(torch.empty(16).uniform_(-1, 1).bfloat16())
    in_float32, in_bfloat16 = (torch.jit.trace(copy.deepcopy(norm), torch.randn(2, 16, 40, 40), check_trace=False)
                               for _ in range(2))  # fmt: skip
    in_bfloat16.bfloat16()
    for images in (1, 3):
        levels = (mean + torch.randn(1, 16, 1, 1)) * torch.arange(1, images + 1).view(-1, 1, 1, 1)
        x = (levels + torch.randn(images, 16, 40, 40)).bfloat16().contiguous(memory_format=torch.channels_last)
        expected = norm.double().train()(x.double().contiguous()).float()  # by planes: see norms.py
        assert torch.allclose(in_float32(x.float()), expected, atol=2e-5)
        half = in_bfloat16(x)
        assert half.dtype is torch.bfloat16 and half.is_contiguous(memory_format=torch.channels_last)
        # A statistic kept in bfloat16 would shift a whole channel.
        assert torch.allclose(half.float(), expected, rtol=0.005, atol=0.005)
        assert (half.float() - expected).mean(dim=(2, 3)).abs().max() < 0.003
