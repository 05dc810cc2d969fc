"""The head's outline in a 2D frame: an ellipse in any orientation, with its confidence.

    found = find_outline(load_network("frames"), volume, fan)      # None without a head

The network predicts in the whole fan first, then in squares that the head fills, each in several orientations and
mirrored. One ellipse is fitted to the distances that all these views predict. torch is imported with this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.special import expit
from torch import Tensor, nn

from USMRISynthesisLib.alignment.common.confidence import (
    DEFAULT_FRAME,
    FRAME_NAMES,
    Calibration,
    FrameFeatures,
    predict_proba,
)
from USMRISynthesisLib.alignment.common.pyramid import Pyramid, plane_of
from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.frame.network import (
    COS,
    DISTANCE,
    FACE_SIZE,
    HEAD,
    HEADED,
    LOG_SIGMA,
    SIN,
    SIZE,
    FaceNetwork,
    FrameConfig,
    FrameNetwork,
)
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.geometry.ellipse import Ellipse, from_mask, through_distances
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import schema, store
from USMRISynthesisLib.models.manifest import malformed
from USMRISynthesisLib.models.network import ready

TASK = "frames"
PARTS = ("outline", "face")
# Largest distance of a cell from the outline at which its prediction is used, in half-sides of the square.
REACH = 0.15
# The square's side over the head's length once that is known.
SIDE = 1.35
FACE_SIDE = 1.2
# (quarter turns, mirrored) of the views: an error in one of them is outvoted by the others.
_FIRST = ((0.0, False), (1.0, True), (2.0, False), (3.0, True))
_NEAR = ((0.0, False), (1.5, True), (2.0, True), (3.5, False))
_LAST = tuple((0.5 * n, mirrored) for n in range(0, 8, 2) for mirrored in (False, True))


@dataclass(eq=False)
class Network:
    """The networks in evaluation mode on the CPU, and the calibration of their confidence."""

    outline: Callable[[Tensor], Tensor]
    face: Callable[[Tensor], Tensor]
    calibration: Calibration = DEFAULT_FRAME
    name: str = TASK

    def __call__(self, x: Tensor) -> np.ndarray:
        """(N, 1, S, S) -> fields (N, 6, s, s)."""
        with torch.inference_mode():
            return np.asarray(self.outline(x).float().numpy())


@dataclass(frozen=True, eq=False)
class Outlined:
    """The outline of a head.

    ellipse: in the frame's plane, mm from its first pixel; plane_to_ras: (4, 4) from there (`pyramid.plane_of`).
    midline: (2,) unit vector along the predicted midline, of either sign. front: logit of the face lying at
    the end of the major axis that `ellipse.directions[:, 0]` points to; trained on simulated frames only.
    """

    ellipse: Ellipse
    plane_to_ras: np.ndarray
    midline: np.ndarray
    front: float
    features: FrameFeatures
    score: float


@dataclass(frozen=True, eq=False)
class _View:
    """One view: `unit` (3, 3) maps its square to the plane; its predicted fields, and its own ellipse in the plane."""

    unit: np.ndarray
    fields: np.ndarray
    ellipse: Ellipse


def load_network(model: str = TASK, *, consent: store.Consent | None = None) -> Network:
    """The network of a model folder; the hash is checked every time, the preparation is done once.

    Raises Failed (no such model, hash, another task) and ConsentNeeded.
    """
    return store.load(model, TASK, _prepare, consent=consent)


def build(source: store.Source) -> nn.Module:
    """The networks that a manifest describes, with random weights. Raises Failed."""
    config: FrameConfig = schema.build(
        FrameConfig,
        source.settings("frames"),
        lambda name, fault, _: malformed(f"architecture.config.{name}", fault),
    )
    return nn.ModuleDict({"outline": FrameNetwork(config.widths), "face": FaceNetwork(config.face_widths)})


def _prepare(source: store.Source) -> Network:
    manifest = source.manifest
    try:
        trust = manifest.extra.get("trust")
        calibration = Calibration.from_json(trust, FRAME_NAMES) if trust is not None else DEFAULT_FRAME
        module = source.network(lambda: build(source))
        outline, face = (ready(getattr(module, name).eval(), source.name) for name in PARTS)
    except (ValueError, RuntimeError, AttributeError) as error:
        raise Failed(
            "model",
            f"The model {manifest.name!r} is no model for frames of this version.",
            "Export it again, or choose another model.",
        ) from error
    return Network(outline, face, calibration, manifest.name)


def square(side: float, centre: np.ndarray, angle: float, mirrored: bool) -> np.ndarray:
    """`unit_to_plane` (3, 3): a square's own coordinates (-1 and 1 at its sides) to the plane."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.eye(3)
    matrix[:2, :2] = side / 2 * np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    matrix[:2, 2] = centre
    return matrix


def find_outline(network: Network, volume: Volume, fan: np.ndarray) -> Outlined | None:
    """Where a frame's head lies.

    Args:
        volume: an admitted 2D frame. fan: (1, j, i) bool.

    Returns:
        None without a head.
    """
    pyramid = Pyramid(volume, fan)
    views = _predict_views(network, pyramid, 1.1 * pyramid.extent, pyramid.centre, _FIRST)
    ellipse = _central_ellipse(views)
    for poses in (_NEAR, _LAST):
        if ellipse is None:
            return None
        views = _predict_views(network, pyramid, SIDE * ellipse.length, ellipse.centre, poses)
        ellipse = _central_ellipse(views)
    if ellipse is None:
        return None
    joint = _fit_jointly(views, ellipse)
    if joint is None:
        return None
    ellipse, residual = joint
    features = _features(pyramid, views, ellipse, residual)
    return Outlined(
        ellipse,
        plane_of(volume)[0],
        _midline(views, ellipse),
        face_logit(network, pyramid, ellipse),
        features,
        predict_proba(features, network.calibration),
    )


def _predict_views(
    network: Network, pyramid: Pyramid, side: float, centre: np.ndarray, poses: Sequence[tuple[float, bool]]
) -> list[_View]:
    """The squares of one size about a centre, and the ellipse that each predicts; those without one are left out."""
    units = [square(side, centre, quarters * np.pi / 2, mirrored) for quarters, mirrored in poses]
    predicted = network(torch.cat([pyramid.cut(unit, SIZE) for unit in units]))
    views = []
    for unit, fields in zip(units, predicted, strict=True):
        ellipse = _ellipse_of(fields)
        if ellipse is not None:
            views.append(_View(unit, fields, ellipse.moved(unit)))
    return views if 2 * len(views) >= len(poses) else []


def _ellipse_of(fields: np.ndarray) -> Ellipse | None:
    """In the square's own coordinates, from one view's fields (6, s, s)."""
    share = expit(fields[HEAD])
    parts, count = ndimage.label(share > 0.5)
    if not count:
        return None
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    places = cell_centres(fields.shape[-1], 2).numpy().astype(np.float64).reshape(2, -1)
    start = from_mask(np.where(largest, share, 0).ravel().astype(np.float64), places)
    if start is None:
        return None
    fitted = through_distances(*_cells(fields, np.eye(3), start), start, 0.03)
    return start if fitted is None else fitted[0]


def _cells(fields: np.ndarray, unit: np.ndarray, about: Ellipse) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (2, m) in the plane of the cells near an ellipse there, their predicted distances, and their weights."""
    scale = float(np.sqrt(abs(np.linalg.det(unit[:2, :2]))))
    places = cell_centres(fields.shape[-1], 2).numpy().astype(np.float64).reshape(2, -1)
    places = unit[:2, :2] @ places + unit[:2, 2:]
    distances = fields[DISTANCE].ravel().astype(np.float64) * scale
    sigma = np.exp(np.clip(fields[LOG_SIGMA].ravel().astype(np.float64), -5, 1))
    near = (np.abs(distances) < REACH * scale) & (np.abs(about.distance(places)) < 2 * REACH * scale)
    return places[:, near], distances[near], 1 / (sigma[near] + 0.01) ** 2


def _fit_jointly(views: Sequence[_View], start: Ellipse) -> tuple[Ellipse, float] | None:
    """One ellipse through the cells of all views, and the mean difference that is left."""
    parts = [_cells(view.fields, view.unit, start) for view in views]
    places, distances, cell_weights = (np.concatenate([part[n] for part in parts], axis=-1) for n in range(3))
    return through_distances(places, distances, cell_weights, start, 0.02 * start.length)


def _central_ellipse(views: Sequence[_View]) -> Ellipse | None:
    """The view's ellipse that lies nearest to all others; None without any."""
    if not views:
        return None
    apart = [sum(_outline_distance(view.ellipse, other.ellipse) for other in views) for view in views]
    return views[int(np.argmin(apart))].ellipse


def _outline_distance(one: Ellipse, other: Ellipse) -> float:
    """Mean distance of two outlines, as a share of the length."""
    return float(np.abs(one.distance(other.outline())).mean()) / one.length


def _features(pyramid: Pyramid, views: Sequence[_View], ellipse: Ellipse, residual: float) -> FrameFeatures:
    inside, outside, errors = [], [], []
    for view in views:
        there = ellipse.moved(np.linalg.inv(view.unit)).distance(cell_centres(view.fields.shape[-1], 2).numpy())
        share = expit(view.fields[HEAD])
        inside.append(float(share[there < 0].mean()) if (there < 0).any() else 0.0)
        outside.append(float(share[there >= 0].mean()) if (there >= 0).any() else 1.0)
        near = np.abs(there) < 0.05
        sigma = np.exp(np.clip(view.fields[LOG_SIGMA][near], -7, 1))
        errors.append(float(sigma.mean()) * SIDE / 2 if near.any() else 1.0)
    return FrameFeatures(
        headed=float(np.mean([view.fields[HEADED].mean() for view in views])),
        spread=100 * float(np.mean([_outline_distance(ellipse, view.ellipse) for view in views])),
        residual=100 * residual / ellipse.length,
        error=100 * float(np.mean(errors)),
        mask=float(np.mean(inside) - np.mean(outside)),
        fan=_in_fan(pyramid, ellipse),
    )


def _in_fan(pyramid: Pyramid, ellipse: Ellipse) -> float:
    """The share of the outline, a little inside, that lies in the fan."""
    cells = pyramid.cut(square(SIDE * ellipse.length, ellipse.centre, 0.0, False), SIZE)[0, 0].numpy() > -1
    cells = ndimage.maximum_filter(cells, 5)  # black in the fan is no border
    unit = np.linalg.inv(square(SIDE * ellipse.length, ellipse.centre, 0.0, False))
    line = Ellipse(ellipse.centre, 0.97 * ellipse.axes).moved(unit).outline()
    i, j = np.clip(((line + 1) / 2 * SIZE).astype(int), 0, SIZE - 1)
    return float(cells[j, i].mean())


def _midline(views: Sequence[_View], ellipse: Ellipse) -> np.ndarray:
    """(2,) unit vector in the plane: the mean of the views' predictions inside the ellipse."""
    total = np.zeros((2, 2))
    for view in views:
        there = ellipse.moved(np.linalg.inv(view.unit)).distance(cell_centres(view.fields.shape[-1], 2).numpy()) < 0
        if not there.any():
            continue
        cosine, sine = (float(view.fields[channel][there].mean()) for channel in (COS, SIN))
        # The tensor of a direction without sign turns and mirrors with the square.
        tensor = np.array([[cosine, sine], [sine, -cosine]])
        turn = view.unit[:2, :2] / np.sqrt(abs(np.linalg.det(view.unit[:2, :2])))
        total += turn @ tensor @ turn.T
    return np.asarray(np.linalg.eigh(total)[1][:, 1])


def face_logit(network: Network, pyramid: Pyramid, ellipse: Ellipse) -> float:
    """Mean logit of the face lying where the major axis points: upright, upside down, and both in the mirror."""
    poses = [(turned, mirrored) for turned in (False, True) for mirrored in (False, True)]
    squares = [pyramid.cut(upright_square(ellipse, turned, mirrored), FACE_SIZE) for turned, mirrored in poses]
    with torch.inference_mode():
        predicted = network.face(torch.cat(squares)).float().numpy()
    return float(np.mean([-value if turned else value for value, (turned, _) in zip(predicted, poses, strict=True)]))


def upright_square(ellipse: Ellipse, turned: bool, mirrored: bool) -> np.ndarray:
    """`unit_to_plane` (3, 3): the head filling a square, its major axis along y, or against it."""
    along = ellipse.directions[:, 0]
    angle = float(np.arctan2(along[1], along[0])) - np.pi / 2 + (np.pi if turned else 0.0)
    return square(FACE_SIDE * ellipse.length, ellipse.centre, angle, mirrored)
