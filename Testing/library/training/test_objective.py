"""The objective's terms, the discriminators, EdgeNet, the augmentation and the history pool."""

from __future__ import annotations

import math

import pytest
import torch
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig
from USMRISynthesisLib.training.synthesis.augmentation import AugmentationConfig, augment
from USMRISynthesisLib.training.synthesis.history import HistoryPool
from USMRISynthesisLib.training.synthesis.networks import BackwardPath, Discriminators, EdgeNet
from USMRISynthesisLib.training.synthesis.objective import (
    ADVERSARIAL_TERMS,
    FLUID,
    TERMS,
    ObjectiveConfig,
    Real,
    Synthesised,
    adversarial_discriminator,
    adversarial_generator,
    below_floor,
    discriminator_terms,
    generator_terms,
    marked_fluid,
    paired_edge_l1,
    paired_l1,
    weighted_sum,
)

GENERATOR = GeneratorConfig(width=4, multipliers=(1, 2, 2), skips=(1,), reconstruction_skips=(1,), attention_level=1)
ALL_ON = ObjectiveConfig(supervised=10.0, edge=1.0)
NONE_ON = {term: 0.0 for term in TERMS}


@pytest.fixture
def parts():
    torch.manual_seed(0)
    generator, backward = Generator(GENERATOR), BackwardPath(GENERATOR.channels)
    torch.nn.init.normal_(generator.attention.eta.weight)
    discriminators = Discriminators(GENERATOR.channels[-1], width=4)
    x = torch.rand(2, 4, 32, 32) * 2 - 1
    y, us, mr = generator.forward_training(x)
    made = Synthesised(y, us, mr, *backward(mr))
    real = Real(
        us=x[:, 1:2],
        mr=torch.rand(3, 1, 32, 32) * 2 - 1,
        truth=torch.rand(2, 1, 32, 32) * 2 - 1,
        has_truth=torch.tensor([True, False]),
    )
    return generator, backward, discriminators, made, real


def moved(network) -> bool:
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("kind", ["lsgan", "log"])
@pytest.mark.parametrize(
    "term", [term for term in TERMS if term not in ("floor", "agree", "marks")]
)  # 0 until something is black, taught or marked
def test_each_term_alone_trains_the_generator(parts, term, kind):
    generator, backward, discriminators, made, real = parts
    config = ObjectiveConfig(**{**NONE_ON, term: 2.0}, adversarial=kind)
    terms = generator_terms(made, real, discriminators, EdgeNet(), config)
    assert list(terms) == [term] and terms[term].ndim == 0
    total = weighted_sum(terms, config)
    torch.testing.assert_close(total, 2 * terms[term])
    total.backward()
    assert moved(generator)
    assert moved(backward) == (term in ("proj", "back", "bi"))
    assert moved(generator.decoder_c) == (term != "lat")


def test_weight_zero_switches_a_term_off(parts):
    _, _, discriminators, made, real = parts
    config = ObjectiveConfig(stru=0.0, proj=0.0, back=0.0)
    assert set(generator_terms(made, real, discriminators, EdgeNet(), config)) == {"lat", "app", "bi"}
    assert set(discriminator_terms(made, real, discriminators, EdgeNet(), config)) == {"app", "bi"}


def test_without_terms_on_it_the_backward_path_is_not_needed(parts):
    _, _, discriminators, made, real = parts
    config = ObjectiveConfig(proj=0.0, back=0.0, bi=0.0)
    assert not config.needs_backward_path and ObjectiveConfig().needs_backward_path
    forward_only = made._replace(y_back=None, us_back=None)
    assert set(generator_terms(forward_only, real, discriminators, EdgeNet(), config)) == {
        "lat",
        "app",
        "stru",
    }
    with pytest.raises(ValueError, match="backward path"):
        generator_terms(forward_only, real, discriminators, EdgeNet(), ObjectiveConfig())


@pytest.mark.parametrize("kind", ["lsgan", "log"])
@pytest.mark.parametrize("term", ADVERSARIAL_TERMS)
def test_the_discriminator_step_trains_its_own_discriminator_and_no_network(parts, term, kind):
    generator, backward, discriminators, made, real = parts
    config = ObjectiveConfig(**{**NONE_ON, term: 1.0}, adversarial=kind)
    terms = discriminator_terms(made, real, discriminators, EdgeNet(), config)
    terms[term].backward()
    assert not moved(generator) and not moved(backward)
    for name, discriminator in discriminators.items():
        assert moved(discriminator) == (name == term)


@pytest.mark.parametrize("kind", ["lsgan", "log"])
def test_the_stop_gradient_keeps_the_latent_from_meeting_the_backward_latent(parts, kind):
    _, _, discriminators, made, real = parts
    for stop in (True, False):
        y = made.y.detach().requires_grad_()
        y_back = made.y_back.detach().requires_grad_()
        config = ObjectiveConfig(**{**NONE_ON, "bi": 1.0}, stop_gradient_latent=stop, adversarial=kind)
        terms = generator_terms(made._replace(y=y, y_back=y_back), real, discriminators, EdgeNet(), config)
        terms["bi"].backward()
        assert (y.grad is None) == stop and y_back.grad.abs().sum() > 0


def test_least_squares_and_log_losses_have_their_textbook_values():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([1.0, -1.0])
    assert float(adversarial_generator(fake, "lsgan")) == pytest.approx((0 + 4) / 2)
    assert float(adversarial_discriminator(real, fake, "lsgan")) == pytest.approx(0.5 * (1 + 1))
    guess = torch.zeros(4)
    assert float(adversarial_generator(guess, "log")) == pytest.approx(math.log(2))
    assert float(adversarial_discriminator(guess, guess, "log")) == pytest.approx(math.log(2))


def test_pairs_count_only_where_there_is_a_truth():
    predicted, truth = torch.zeros(3, 1, 4, 4), torch.ones(3, 1, 4, 4)
    truth[1] = float("nan")
    has_truth = torch.tensor([True, False, True])
    assert float(paired_l1(predicted, truth, has_truth)) == pytest.approx(1.0)
    predicted.requires_grad_()
    loss = paired_l1(predicted, truth, has_truth) + paired_edge_l1(predicted, truth, has_truth)
    loss.backward()
    assert torch.isfinite(predicted.grad).all() and predicted.grad[1].abs().sum() == 0
    assert float(paired_l1(predicted, truth, torch.zeros(3, dtype=torch.bool))) == 0.0


def test_the_edge_term_sees_differences_and_not_offsets():
    truth = torch.rand(1, 1, 8, 8)
    yes = torch.tensor([True])
    assert float(paired_edge_l1(truth + 0.3, truth, yes)) == pytest.approx(0.0, abs=1e-6)
    assert float(paired_edge_l1(truth.flip(3), truth, yes)) > 0.1


@pytest.mark.parametrize("wrong", [{"lat": -1.0}, {"adversarial": "wasserstein"}])
def test_an_impossible_objective_is_refused(wrong):
    with pytest.raises(ValueError):
        ObjectiveConfig(**wrong)


def test_edgenet_has_no_parameters_and_no_optimiser_can_move_it():
    edge_net = EdgeNet()
    assert list(edge_net.parameters()) == []
    before = {name: value.clone() for name, value in edge_net.state_dict().items()}
    image = torch.rand(1, 1, 8, 8, requires_grad=True)
    optimiser = torch.optim.Adam([image, *edge_net.parameters()], lr=0.1)
    edge_net(image).sum().backward()
    assert image.grad.abs().sum() > 0
    optimiser.step()
    assert len(before) == 3  # four layers: the smoothing kernel serves the first and the last
    for name, value in edge_net.state_dict().items():
        assert value.shape[2:] == (3, 3) and torch.equal(value, before[name]), name


def test_edgenet_finds_a_step_alike_in_every_direction_and_nothing_in_a_flat_image():
    edge_net = EdgeNet()
    step = torch.full((1, 1, 16, 16), -1.0)
    step[..., 8:] = 1.0
    upright, lying = edge_net(step), edge_net(step.transpose(2, 3))
    torch.testing.assert_close(upright, lying.transpose(2, 3))
    assert 0.5 < float(upright.max()) < 1.5 and float(upright[..., :4].max()) < 0.02
    assert float(edge_net(torch.full((1, 1, 16, 16), 0.7)).max()) < 0.02
    assert torch.isfinite(torch.autograd.grad(edge_net(step.requires_grad_()).sum(), step)[0]).all()


@pytest.mark.parametrize("spectral", [False, True])
def test_every_discriminator_has_four_convolutions_and_judges_patches(spectral):
    discriminators = Discriminators(8, width=4, spectral=spectral)
    for name, discriminator in discriminators.items():
        convolutions = [m for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(convolutions) == 4, name
    assert discriminators["app"](torch.randn(2, 1, 32, 32)).shape == (2, 1, 3, 3)
    assert discriminators["bi"](torch.randn(2, 8, 4, 4)).shape == (2, 1, 4, 4)


def test_the_augmentation_is_differentiable_and_keeps_the_shape():
    torch.manual_seed(0)
    image = torch.rand(3, 1, 16, 16, requires_grad=True)
    out = augment(image, AugmentationConfig())
    assert out.shape == image.shape and not torch.allclose(out, image)
    out.square().sum().backward()
    assert (image.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_no_augmentation_is_the_identity():
    image = torch.rand(2, 1, 8, 8)
    assert torch.equal(augment(image, AugmentationConfig(0.0, 0.0, 0.0, 0.0)), image)


def test_the_history_pool_returns_new_or_older_fakes_and_is_restored_from_its_state():
    torch.manual_seed(0)
    pool = HistoryPool(4)
    seen = []
    for value in range(20):
        fakes = torch.full((2, 1, 1, 1), float(value), requires_grad=True)
        given = pool.exchange(fakes)
        assert given.shape == fakes.shape and not given.requires_grad
        seen += given.flatten().tolist()
        assert all(v <= value for v in given.flatten().tolist())
    assert len(pool.kept) == 4 and len(set(seen)) > 4
    twin = HistoryPool(4)
    twin.load_state_dict(pool.state_dict())
    again = torch.full((3, 1, 1, 1), 99.0)
    torch.manual_seed(7)
    first = pool.exchange(again)
    torch.manual_seed(7)
    assert torch.equal(first, twin.exchange(again))


def test_a_pool_of_size_zero_passes_through():
    fakes = torch.rand(2, 1, 1, 1)
    assert torch.equal(HistoryPool(0).exchange(fakes), fakes)


def test_only_samples_without_truth_agree_with_what_is_taught():
    mr, taught = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    made = Synthesised(torch.zeros(2, 4, 2, 2), torch.zeros_like(mr), mr, None, None, taught)
    config = ObjectiveConfig(**NONE_ON | {"agree": 1.0})

    def agreement(has_truth: list[bool]) -> float:
        real = Real(torch.zeros_like(mr), mr, mr, torch.tensor(has_truth))
        return float(generator_terms(made, real, {}, torch.nn.Identity(), config)["agree"])

    assert agreement([True, False]) == 1 and agreement([True, True]) == 0


def test_marked_fluid_is_to_be_bright_in_its_brightest_part_and_nothing_else_is():
    mr = torch.zeros(2, 1, 8, 8, requires_grad=True)
    marks = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
    marks[1, 0, 2:4, 2:7] = True  # ten pixels of a cavum: six count
    value = marked_fluid(mr, marks)
    torch.testing.assert_close(value, torch.tensor(FLUID / 2))  # mean over both samples
    value.backward()
    assert (mr.grad[0] == 0).all() and (mr.grad[1, 0][~marks[1, 0]] == 0).all()
    assert int((mr.grad[1] < 0).sum()) == 6
    assert marked_fluid(torch.full_like(mr, 0.9), marks) == 0
    assert marked_fluid(mr, torch.zeros_like(marks)) == 0


def test_marks_do_not_paint_the_rest_of_a_frame():
    before, marks = torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    marks[0, 0, 2:4, 2:7] = True
    painted = torch.where(marks[:, :1], torch.tensor(0.9), before)
    flooded = torch.full_like(before, 0.9)
    assert marked_fluid(flooded, marks) == 0  # the marks alone do not mind
    cost = [float(marked_fluid(image, marks, before)) for image in (before, painted, flooded)]
    assert cost[1] < cost[0] < cost[2]


def test_a_covered_cavum_is_not_to_be_drawn():
    before, marks = torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    marks[0, 2, 2:4, 2:7] = True
    drawn = torch.where(marks[:, 2:], torch.tensor(0.9), before)
    assert marked_fluid(before, marks, before) == 0
    assert marked_fluid(drawn, marks, before) > 0.9  # more than the change of any other place of this size costs
    elsewhere = drawn.roll(4, dims=2)
    assert marked_fluid(elsewhere, marks, before) < marked_fluid(drawn, marks, before)


def test_the_floor_lifts_black_spots_in_the_middle_of_real_frames_only():
    mr = torch.full((2, 1, 80, 80), 0.1)
    mr[:, :, 38:42, 38:42] = -0.9  # a black spot in the brain
    mr[:, :, :6] = -1.0  # the background
    mr.requires_grad_(True)
    value = below_floor(mr, torch.tensor([True, False]))
    value.backward()
    assert value > 0
    assert (mr.grad[0] == 0).all() and (mr.grad[1, 0, :6] == 0).all()
    assert (mr.grad[1, 0, 38:42, 38:42] < 0).all()  # descending brightens it
    assert below_floor(mr, torch.tensor([True, True])) == 0
