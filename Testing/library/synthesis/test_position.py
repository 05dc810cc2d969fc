"""The positional encoding of decoder C: it starts at zero, depends on the position, and survives export."""

from __future__ import annotations

import io

import pytest
import torch
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig
from USMRISynthesisLib.synthesis.position import PositionalEncoding

SMALL = {"width": 2, "multipliers": (1, 2, 2), "skips": (1,), "reconstruction_skips": (1,), "attention_level": 1}
NO_PLANE = torch.zeros(2, 1, 1, 1)


def test_a_new_encoding_changes_nothing() -> None:
    torch.manual_seed(0)
    encoded = Generator(GeneratorConfig(place=True, **SMALL)).eval()
    plain = Generator(GeneratorConfig(**SMALL)).eval()
    state = encoded.state_dict()
    plain.load_state_dict({key: value for key, value in state.items() if not key.startswith("place_")})
    x = torch.rand(2, 4, 32, 32) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(encoded(x), plain(x))
        torch.testing.assert_close(encoded.forward_training(x)[2], encoded(x))


def test_a_trained_encoding_separates_left_right_front_back_and_heights() -> None:
    code = PositionalEncoding(3)
    torch.nn.init.normal_(code.out.weight)
    feature = torch.zeros(2, 3, 10, 10)
    with torch.inference_mode():
        out = code(feature, torch.tensor([-0.3, 0.4]).view(2, 1, 1, 1), NO_PLANE)
    assert (out[0] - out[1]).abs().max() > 1e-2
    assert (out[0] - out[0].flip(-1)).abs().max() > 1e-2
    assert (out[0] - out[0].flip(-2)).abs().max() > 1e-2
    assert torch.equal(out[0, :, 0, 0], code(feature, torch.full((2, 1, 1, 1), -0.3), NO_PLANE)[1, :, 0, 0])


def test_the_coordinates_run_from_corner_to_corner_at_any_size() -> None:
    code = PositionalEncoding(1)
    for size in (5, 40):
        plane = torch.nn.functional.interpolate(code.corners, size=(size, size), mode="bilinear", align_corners=True)
        torch.testing.assert_close(plane[0, 0, 0], torch.linspace(-1, 1, size))
        torch.testing.assert_close(plane[0, 1, :, 0], torch.linspace(-1, 1, size))


def test_a_trace_of_it_takes_any_batch_and_half_precision() -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(place=True, **SMALL)).eval()
    torch.nn.init.normal_(generator.place_split.out.weight, std=0.1)
    traced = torch.jit.trace(generator, torch.rand(2, 4, 32, 32))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    loaded = torch.jit.load(io.BytesIO(file.getvalue()))
    x = torch.rand(3, 4, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), generator(x))
        assert loaded.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


def test_place_without_location_is_refused() -> None:
    with pytest.raises(ValueError, match="place needs location"):
        GeneratorConfig(place=True, location=False)
