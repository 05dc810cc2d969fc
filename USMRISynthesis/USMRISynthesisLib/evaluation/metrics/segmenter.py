"""A tissue segmenter of fetal MR: trained on true T2 slices and their labels, applied to synthesised ones.

What it finds in an MR-like slice, compared with the truth's labels, measures whether the tissues lie where they should;
the true slice, segmented by the same network, is the most that can be had.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from USMRISynthesisLib.datasets.simulated import case_files
from USMRISynthesisLib.simulation.anatomy.labels import (
    BRAINSTEM,
    CAVUM,
    CEREBELLUM,
    CHOROID,
    CORPUS_CALLOSUM,
    CORTEX,
    DEEP_GREY,
    EXTERNAL_CSF,
    MASS,
    VENTRICLES,
    WHITE_MATTER,
)
from USMRISynthesisLib.synthesis.blocks import Encoder, UpBlock

CLASSES: dict[str, tuple[int, ...]] = {
    "external CSF": (EXTERNAL_CSF,),
    "cortex": (CORTEX,),
    "white matter": (WHITE_MATTER, CORPUS_CALLOSUM, MASS),
    "ventricles": (VENTRICLES, CAVUM, CHOROID),
    "deep grey": (DEEP_GREY,),
    "cerebellum": (CEREBELLUM,),
    "brainstem": (BRAINSTEM,),
}
CHANNELS = (8, 16, 32, 64)
STEPS = 2000  # at 900 the truth itself got anything between 0.68 and 0.84 from one training to the next
AVERAGING = 0.99
BATCH = 6
RATE = 2e-3


class Segmenter(nn.Module):
    """(N, 2, H, W): T2 in 0-1 and z / 48 mm -> logits (N, 1 + tissues, H, W), class 0 what is no brain."""

    def __init__(self) -> None:
        super().__init__()
        top = len(CHANNELS) - 1
        self.encoder = Encoder(2, CHANNELS)
        self.blocks = nn.ModuleList(
            UpBlock(CHANNELS[level + 1], CHANNELS[level], CHANNELS[level], level=level, skip=True)
            for level in reversed(range(top))
        )
        self.last = nn.Conv2d(CHANNELS[0], 1 + len(CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        out = features[-1]
        for block in self.blocks:
            out = block(out, features)
        return self.last(out)


def class_map(labels: np.ndarray) -> np.ndarray:
    """Simulator's labels -> class numbers, uint8; 0 is what is no brain."""
    table = np.zeros(256, np.uint8)
    for number, members in enumerate(CLASSES.values(), 1):
        table[list(members)] = number
    return table[labels]


def segment(network: Segmenter, t2: np.ndarray, z_mm: np.ndarray) -> np.ndarray:
    """Slices (K, H, W) in 0-1 at canonical z -> class numbers (K, H, W)."""
    from USMRISynthesisLib.synthesis.slices import LOCATION_SCALE_MM

    found = np.zeros(t2.shape, np.uint8)
    with torch.inference_mode():
        for n in range(len(t2)):
            image = torch.from_numpy(np.ascontiguousarray(t2[n], np.float32))[None, None]
            place = torch.full_like(image, float(z_mm[n]) / LOCATION_SCALE_MM)
            found[n] = network(torch.cat([image, place], dim=1)).argmax(dim=1)[0].numpy()
    return found


def tissue_dice(found: np.ndarray, labels: np.ndarray, where: np.ndarray) -> dict[str, float]:
    """Dice of every tissue that the truth has, inside `where`; found are class numbers, labels the simulator's."""
    true = class_map(labels)
    scores = {}
    for number, name in enumerate(CLASSES, 1):
        a, b = (found == number) & where, (true == number) & where
        if b.sum() >= 50:
            scores[name] = 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())
    return scores


def features(network: Segmenter, t2: np.ndarray, z_mm: np.ndarray) -> np.ndarray:
    """What the network makes of slices (K, H, W) in 0-1 at its coarsest level, means over the slice: (K, channels)."""
    from USMRISynthesisLib.synthesis.slices import LOCATION_SCALE_MM

    made = []
    with torch.inference_mode():
        for image, z in zip(t2, z_mm, strict=True):
            x = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
            deep = network.encoder(torch.cat([x, torch.full_like(x, float(z) / LOCATION_SCALE_MM)], dim=1))[-1]
            made.append(deep.mean(dim=(2, 3))[0].numpy())
    return np.stack(made)


def trained(folders: Sequence[Path], kept: Path, *, progress: Callable[[float, str], None] | None = None) -> Segmenter:
    """The segmenter of some splits' T2 and labels; made once and kept in `kept`, while the cases are the same.

    Raises Refused for a split without cases.
    """
    paths = [path for folder in folders for path in case_files(folder)]
    facts = [(p.name, p.stat().st_size) for p in paths], CHANNELS, STEPS, AVERAGING, BATCH, RATE, "root of share"
    stamp = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    file = kept / f"segmenter-{stamp}.pt"
    network = Segmenter()
    if file.is_file():
        network.load_state_dict(torch.load(file, weights_only=True))
        return network.eval()
    _train(network, paths, progress)
    kept.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), file)
    return network.eval()


def _train(network: Segmenter, paths: Sequence[Path], progress: Callable[[float, str], None] | None) -> None:
    """Train it, to the average of its weights, which depends less on the last slices than they do."""
    from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
    from USMRISynthesisLib.synthesis.slices import LOCATION_SCALE_MM

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    images, targets, places = [], [], []
    axis = canonical_axis_mm()
    for path in paths:
        with np.load(path) as file:
            t2, labels = file["t2"], class_map(file["labels"])
        chosen = rng.choice(np.flatnonzero(labels.any(axis=(1, 2))), 24, replace=False)
        images.append(t2[chosen])
        targets.append(labels[chosen])
        places.append(axis[chosen])
    t2s, classes, z = np.concatenate(images), np.concatenate(targets), np.concatenate(places)
    # By its share alone the brainstem would never be found: a class counts by the root of its share.
    share = np.bincount(classes.ravel(), minlength=1 + len(CLASSES)) / classes.size
    counts = torch.from_numpy((1 / np.sqrt(np.maximum(share, 1e-4))).astype(np.float32))
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
    began = time.perf_counter()
    network.train()
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - step / STEPS))
        some = rng.integers(len(t2s), size=BATCH)
        x = torch.from_numpy(t2s[some].astype(np.float32))[:, None] / 255
        # Contrast and sharpness of a synthesised slice are not those of an average: neither may decide.
        x = x ** float(np.exp(rng.uniform(-0.3, 0.3))) * float(rng.uniform(0.85, 1.15))
        if rng.random() < 0.5:
            x = F.avg_pool2d(x, 3, 1, 1)
        y = torch.from_numpy(classes[some].astype(np.int64))
        if rng.random() < 0.5:
            x, y = x.flip(3), y.flip(2)
        place = torch.from_numpy((z[some] / LOCATION_SCALE_MM).astype(np.float32))[:, None, None, None]
        loss = F.cross_entropy(network(torch.cat([x, place.expand_as(x)], dim=1)), y, weight=counts / counts.mean())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        averaged.update_parameters(network)
        if progress and step % 25 == 0:
            progress(step / STEPS, f"segmenter ({time.perf_counter() - began:.0f} s)")
    network.load_state_dict(averaged.module.state_dict())
