"""The terms of the methods that the study compares with: autoencoder, CycleGAN, CUT."""

from __future__ import annotations

import math

import pytest
import torch
from factories.training import configure, make_data, same_weights
from USMRISynthesisLib.errors import Cancelled
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig
from USMRISynthesisLib.training.run import train
from USMRISynthesisLib.training.synthesis import baselines
from USMRISynthesisLib.training.synthesis.networks import BackwardPath, Discriminators, PatchContrast
from USMRISynthesisLib.training.synthesis.objective import BASELINE_TERMS, TERMS, ObjectiveConfig, Real, Synthesised

NONE_ON = dict.fromkeys((*TERMS, *BASELINE_TERMS), 0.0)


def networks(location: bool = True):
    torch.manual_seed(0)
    config = GeneratorConfig(
        width=4, multipliers=(1, 2, 2), skips=(1,), reconstruction_skips=(1,), attention_level=1, location=location
    )
    return config, Generator(config), BackwardPath(config.channels), Discriminators(config.channels[-1], width=4)


def moved(network) -> bool:
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("location", [True, False])
def test_an_mr_slice_stands_in_for_every_ultrasound_slice_and_keeps_the_place(location):
    config, *_ = networks(location)
    x, mr = torch.rand(2, config.in_channels, 32, 32), torch.rand(2, 1, 32, 32)
    made = baselines.as_input(mr, x, 2 * config.neighbours + 1)
    assert made.shape == x.shape
    assert torch.equal(made[:, :3], mr.expand(-1, 3, -1, -1))
    assert torch.equal(made[:, 3:], x[:, 3:])


@pytest.mark.parametrize("term", BASELINE_TERMS)
def test_each_term_alone_trains_its_own_networks(term):
    config, generator, backward, discriminators = networks()
    contrast = PatchContrast(config.channels)
    x, mr = torch.rand(2, 4, 32, 32) * 2 - 1, torch.rand(2, 1, 32, 32) * 2 - 1
    objective = ObjectiveConfig(**{**NONE_ON, term: 1.0})
    assert objective.has_baseline_terms and not objective.without_unpaired().has_baseline_terms
    made = Synthesised(*generator.forward_training(x), None, None)
    other = baselines.from_mr(generator, backward, mr, x, objective)
    terms = baselines.generator_terms(made, other, mr, x, generator, discriminators, contrast, objective)
    assert list(terms) == [term]
    terms[term].backward()
    assert moved(generator) == (term != "reverse")
    assert moved(backward) == (term in ("cycle", "reverse"))
    assert moved(contrast) == (term == "nce")


def test_only_the_reverse_term_trains_a_discriminator_and_nothing_else_with_it():
    _, generator, backward, discriminators = networks()
    x, mr = torch.rand(2, 4, 32, 32) * 2 - 1, torch.rand(2, 1, 32, 32) * 2 - 1
    real = Real(x[:, 1:2], mr, mr, torch.tensor([False, False]))
    for term in BASELINE_TERMS:
        objective = ObjectiveConfig(**{**NONE_ON, term: 1.0})
        other = baselines.from_mr(generator, backward, mr, x, objective)
        terms = baselines.discriminator_terms(other, real, discriminators, objective)
        assert list(terms) == (["reverse"] if term == "reverse" else [])
        if terms:
            terms["reverse"].backward()
            assert moved(discriminators["back"]) and not moved(backward) and not moved(generator)


def test_the_contrast_tells_places_apart_only_where_they_differ():
    torch.manual_seed(1)
    contrast = PatchContrast((2, 8))
    with torch.no_grad():
        head = contrast.heads[0]
        head[0].weight.copy_(torch.eye(64, 8))
        head[2].weight.copy_(torch.eye(64))
        head[0].bias.zero_()
        head[2].bias.zero_()
    fine = torch.zeros(1, 2, 8, 8)
    varied = torch.rand(1, 8, 6, 6)
    flat = torch.ones(1, 8, 6, 6)
    same = float(contrast([fine, varied], [fine, varied]).detach())
    mirrored = float(contrast([fine, varied.flip(3)], [fine, varied]).detach())
    nothing = float(contrast([fine, flat], [fine, flat]).detach())
    assert same < 0.5 * mirrored
    assert nothing == pytest.approx(math.log(36), abs=1e-4)


PEERS_ON = "[objective]\nauto = 1\ncycle = 1\nreverse = 1\nnce = 1\n"


def test_a_run_with_the_baselines_terms_goes_on_exactly_where_it_was_stopped(tmp_path):
    (tmp_path / "data").mkdir()
    data = make_data(tmp_path / "data")
    whole = configure(tmp_path, data, steps=6, output="whole")
    parts = configure(tmp_path, data, steps=6, output="parts")
    for path in (whole, parts):
        path.write_text(path.read_text().replace("[objective]\n", PEERS_ON))
    straight = train(whole, report=lambda text: None)
    polls = iter([False, False, True])
    with pytest.raises(Cancelled):
        train(parts, report=lambda text: None, cancel=lambda: next(polls))
    resumed = train(parts, report=lambda text: None)
    assert same_weights(straight, resumed)
