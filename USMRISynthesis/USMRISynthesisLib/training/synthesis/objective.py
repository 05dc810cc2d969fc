"""The joint objective, equations 1-9 of Jiao et al. (MLMI 2019) with the printed slips mended, and ours.

    lat   |x^_U - x_U|_1                      (2)   reconstruction of the ultrasound
    app   Adv(D_app; x_M, x^_M)               (3)   the MR's appearance
    stru  Adv(D_stru; Edge(x_M), Edge(x^_M))  (4)   the MR's edges
    proj  |x~_U - x_U|_1                      (6)   back projection
    back  Adv(D_back; x_U, x~_U)              (7)   appearance of the back-projected ultrasound
    bi    Adv(D_bi; y, y_b)                   (8)   bi-directional latent consistency
    supervised, edge                          ours: L1 on simulated pairs and on their differences
    floor                                     ours: no black spots within the brain of real frames
    marks                                     ours: fluid marked on real frames is bright
    agree                                     ours: a real frame gives the same MR disturbed, plain and mirrored
    auto, cycle, reverse, nce                 the methods compared with: baselines.py

    Adv(D; r, f) = E log D(r) + E log(1 - D(f)): the discriminator maximises it, the networks minimise it.

Mended: the log on the real term of 3, 4, 7 and 8; D_stru, not D_app, in the second term of 4; the minimum is
over the networks, the maximum over the discriminators. A term of weight 0 is off and is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ADVERSARIAL_TERMS = ("app", "stru", "back", "bi")
TERMS = ("lat", "app", "stru", "proj", "back", "bi", "supervised", "edge", "floor", "agree", "marks")
BASELINE_TERMS = ("auto", "cycle", "reverse", "nce")
UNCHANGED = 4.0  # weight of what marks say nothing of, against that of marked fluid
FLUID = 0.55  # in [-1, 1]; fluid of the T2 averages lies above it
FLOOR = -0.3  # in [-1, 1]; the darkest tissue of the T2 averages lies above it
ADVERSARIAL_KINDS = ("lsgan", "log")
PAIRED_TERMS, UNPAIRED_TERMS = (
    ("supervised", "edge"),
    ("floor", "agree", "marks"),
)  # means over samples with, and without, truth


@dataclass(frozen=True)
class ObjectiveConfig:
    """The weight of each term (0 = off) and how the adversarial ones are measured; by default the paper's.

    adversarial: "lsgan" (least squares) or "log" (the paper's, on logits, non-saturating generator side).
    stop_gradient_latent: in the generator step A is not trained to make its latent y look like y_b; only D is
    trained to make y_b look like y.
    """

    lat: float = 10.0
    app: float = 1.0
    stru: float = 1.0
    proj: float = 10.0
    back: float = 1.0
    bi: float = 1.0
    supervised: float = 0.0
    edge: float = 0.0
    floor: float = 0.0
    agree: float = 0.0
    marks: float = 0.0
    auto: float = 0.0
    cycle: float = 0.0
    reverse: float = 0.0
    nce: float = 0.0
    adversarial: str = "lsgan"
    stop_gradient_latent: bool = True

    def __post_init__(self) -> None:
        for name in (*TERMS, *BASELINE_TERMS):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.adversarial not in ADVERSARIAL_KINDS:
            raise ValueError(f"adversarial must be one of {ADVERSARIAL_KINDS}, not {self.adversarial!r}")

    def weight(self, term: str) -> float:
        return float(getattr(self, term))

    def without_unpaired(self) -> ObjectiveConfig:
        """Reconstruction and pairs only: what needs neither discriminators nor D and E."""
        return replace(self, app=0.0, stru=0.0, proj=0.0, back=0.0, bi=0.0, auto=0.0, cycle=0.0, reverse=0.0, nce=0.0)

    @property
    def needs_backward_path(self) -> bool:
        return any(self.weight(term) > 0 for term in ("proj", "back", "bi"))

    @property
    def has_baseline_terms(self) -> bool:
        return any(self.weight(term) > 0 for term in BASELINE_TERMS)


class Synthesised(NamedTuple):
    """What the networks made of a batch. Images (N, 1, H, W) in [-1, 1]; latents (N, C, h, w).

    y_back and us_back are None when no term needs the backward path.
    """

    y: Tensor
    us: Tensor  # x^_U = B(y)
    mr: Tensor  # x^_M = C(y)
    y_back: Tensor | None  # D(x^_M)
    us_back: Tensor | None  # x~_U = E(y_b)
    taught: Tensor | None = None  # x^_M of the averaged generator, of the undisturbed and mirrored input
    before: Tensor | None = None  # x^_M of the generator that a run began with, of undisturbed frames with marks


class Real(NamedTuple):
    """What they are compared with. Images (N, 1, H, W) in [-1, 1].

    us: the centre slices; mr: unpaired real MR slices (any number); truth: the paired MR, meaningful only
    where has_truth (N,) is true.
    """

    us: Tensor
    mr: Tensor
    truth: Tensor
    has_truth: Tensor
    marks: Tensor | None = None  # (N, 3, H, W) bool: a cavum, the surroundings of a plexus, a cavum that was covered


def adversarial_generator(fake_logits: Tensor, kind: str) -> Tensor:
    """The networks' side: small when the discriminator takes the fakes for real."""
    if kind == "lsgan":
        return (fake_logits - 1).square().mean()
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))


def adversarial_real_side(real_logits: Tensor, kind: str) -> Tensor:
    """The networks' side of E log D(r) where r depends on them: small when r is taken for a fake."""
    if kind == "lsgan":
        return real_logits.square().mean()
    return F.binary_cross_entropy_with_logits(real_logits, torch.zeros_like(real_logits))


def adversarial_discriminator(real_logits: Tensor, fake_logits: Tensor, kind: str) -> Tensor:
    """The discriminator's side: small when it separates the two; 0.25 (lsgan) or log 2 (log) when it
    guesses.
    """
    if kind == "lsgan":
        return 0.5 * ((real_logits - 1).square().mean() + fake_logits.square().mean())
    real = F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
    fake = F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
    return 0.5 * (real + fake)


def paired_l1(predicted: Tensor, truth: Tensor, has_truth: Tensor) -> Tensor:
    """Mean |predicted - truth| over the samples that have a truth; 0 when none has."""
    kept = has_truth.to(predicted).view(-1, 1, 1, 1)
    pixels = predicted.shape[1:].numel()
    # `where`, not a product: a sample without truth may hold anything, even NaN.
    difference = torch.where(kept > 0, predicted - truth, 0.0).abs()
    return difference.sum() / (kept.sum() * pixels).clamp(min=1)


def paired_edge_l1(predicted: Tensor, truth: Tensor, has_truth: Tensor) -> Tensor:
    """L1 between the images' finite differences along both axes, over the samples that have a truth."""
    down = paired_l1(predicted.diff(dim=2), truth.diff(dim=2), has_truth)
    across = paired_l1(predicted.diff(dim=3), truth.diff(dim=3), has_truth)
    return down + across


def below_floor(mr: Tensor, has_truth: Tensor) -> Tensor:
    """Mean depth below FLOOR in the middle of the samples without truth; 0 when there are none.

    T2 has no black within the brain; the backward path writes it there, to read the ultrasound back from it.
    The middle is an ellipse of half the width and 0.8 of the length of a canonical head, well inside any skull.
    """
    height, width = mr.shape[-2:]
    y = torch.linspace(-1, 1, height, device=mr.device)[:, None]
    x = torch.linspace(-1, 1, width, device=mr.device)[None]
    middle = ((x / 0.42) ** 2 + (y / 0.72) ** 2 < 1).to(mr)
    chosen = (~has_truth).to(mr).view(-1, 1, 1, 1) * middle
    return (F.relu(FLOOR - mr) * chosen).sum() / chosen.sum().clamp(min=1)


def marked_fluid(
    mr: Tensor, marks: Tensor, before: Tensor | None = None, shares: tuple[float, float] = (0.6, 0.12)
) -> Tensor:
    """Lack of brightness of marked fluid, and change of all else; mean over all samples, with 0 for one without marks.

    marks: (N, 3, H, W) bool. Of the first two only the brightest part counts (`shares`: of a cavum's core, of a
    plexus's surroundings), for both hold tissue too; the third is where a cavum was covered: nothing brighter than
    `before` is drawn there. before: (N, 1, H, W), what the generator made of these frames before it saw marks. Without
    it a network paints the whole frame bright, and no mark says that this is wrong.
    """
    cost = mr.new_zeros(())
    for n in torch.nonzero(marks.flatten(1).any(1)).flatten().tolist():
        image, other = mr[n, 0], torch.ones_like(marks[n, 0])
        for mark, share in zip(marks[n, :2], shares, strict=True):
            places = torch.nonzero(mark)
            if len(places):
                values, chosen = image[mark].topk(max(1, round(share * len(places))))
                cost = cost + F.relu(FLUID - values).mean()
                other[tuple(places[chosen].T)] = False
        if before is not None:
            cost = cost + UNCHANGED * (image - before[n, 0])[other].abs().mean()
            if bool(marks[n, 2].any()):
                cost = cost + F.relu(image - before[n, 0])[marks[n, 2]].mean()
    return cost / len(mr)


def generator_terms(
    made: Synthesised,
    real: Real,
    discriminators: Mapping[str, nn.Module] | nn.ModuleDict,
    edge_net: nn.Module,
    config: ObjectiveConfig,
    augment: Callable[[Tensor], Tensor] = lambda images: images,
) -> dict[str, Tensor]:
    """Every term that is on, unweighted, by name; for the step of A, B, C, D, E.

    `augment` is applied to what the image discriminators see. The caller freezes the discriminators'
    parameters.
    """
    terms: dict[str, Tensor] = {}

    def fooled(term: str, fake: Tensor) -> Tensor:
        return adversarial_generator(discriminators[term](fake), config.adversarial)

    if config.lat:
        terms["lat"] = F.l1_loss(made.us, real.us)
    if config.app:
        terms["app"] = fooled("app", augment(made.mr))
    if config.stru:
        terms["stru"] = fooled("stru", augment(edge_net(made.mr)))
    if config.proj:
        terms["proj"] = F.l1_loss(_present(made.us_back), real.us)
    if config.back:
        terms["back"] = fooled("back", augment(_present(made.us_back)))
    if config.bi:
        terms["bi"] = fooled("bi", _present(made.y_back))
        if not config.stop_gradient_latent:
            # The real side of equation 8 depends on A: the networks want y to be taken for y_b.
            terms["bi"] = terms["bi"] + adversarial_real_side(discriminators["bi"](made.y), config.adversarial)
    if config.supervised:
        terms["supervised"] = paired_l1(made.mr, real.truth, real.has_truth)
    if config.edge:
        terms["edge"] = paired_edge_l1(made.mr, real.truth, real.has_truth)
    if config.floor:
        terms["floor"] = below_floor(made.mr, real.has_truth)
    if config.marks and real.marks is not None:
        terms["marks"] = marked_fluid(made.mr, real.marks, made.before)
    if config.agree and made.taught is not None:
        terms["agree"] = paired_l1(made.mr, made.taught, ~real.has_truth)
    return terms


def discriminator_terms(
    made: Synthesised,
    real: Real,
    discriminators: Mapping[str, nn.Module] | nn.ModuleDict,
    edge_net: nn.Module,
    config: ObjectiveConfig,
    augment: Callable[[Tensor], Tensor] = lambda images: images,
    remember: Callable[[str, Tensor], Tensor] = lambda term, fakes: fakes,
) -> dict[str, Tensor]:
    """The discriminators' losses of every adversarial term that is on; nothing flows back to the networks.

    `remember` may exchange fakes for older ones: it is called with "mr" (once, for app and stru) and "us".
    """
    terms: dict[str, Tensor] = {}

    def separated(term: str, genuine: Tensor, fake: Tensor) -> Tensor:
        discriminator = discriminators[term]
        return adversarial_discriminator(discriminator(genuine), discriminator(fake), config.adversarial)

    if config.app or config.stru:
        fake_mr = remember("mr", made.mr.detach())
        if config.app:
            terms["app"] = separated("app", augment(real.mr), augment(fake_mr))
        if config.stru:
            terms["stru"] = separated("stru", augment(edge_net(real.mr)), augment(edge_net(fake_mr)))
    if config.back:
        fake_us = remember("us", _present(made.us_back).detach())
        terms["back"] = separated("back", augment(real.us), augment(fake_us))
    if config.bi:
        terms["bi"] = separated("bi", made.y.detach(), _present(made.y_back).detach())
    return terms


def weighted_sum(
    terms: Mapping[str, Tensor], config: ObjectiveConfig, shares: Mapping[str, float] | None = None
) -> Tensor:
    """Equation 9 with every term's weight; `shares`: of a part of a batch, by which its means weigh in the whole."""
    weights = {name: config.weight(name) * (shares[name] if shares else 1.0) for name in terms}
    return torch.stack([weights[name] * value.float() for name, value in terms.items()]).sum()


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("this term needs the backward path (D and E), which was not run")
    return value
