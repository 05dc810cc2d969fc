"""The outcome of a study: every method's figures in one table, and the same inputs through all in one picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.datasets.cases import load_frames
from USMRISynthesisLib.datasets.simulated import Case, cases
from USMRISynthesisLib.evaluation.synthesis import baselines
from USMRISynthesisLib.evaluation.synthesis.evaluate import Predict
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.synthesis.engine import run_slices
from USMRISynthesisLib.synthesis.generator import Generator
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.study.study import Method, Study
from USMRISynthesisLib.training.synthesis.config import TrainingConfig
from USMRISynthesisLib.training.synthesis.data import frame_input, shrunk
from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound

FIGURES = "figures.json"
SHOWN = 6
LABEL_WIDTH = 150


def measured(
    study: Study, split: str, *, progress: Callable[[float, str], None] | None = None
) -> dict[str, dict[str, list[float]]]:
    """Figures of all methods and of the baselines on a split of the study's data; kept in its folder as JSON."""
    data = Path(study.methods[0].config.data.folder)
    predictions = {row(method, study.methods): prediction(method) for method in study.methods}
    figures = baselines.compare(data, split, data / "train", predictions, kept=study.output, progress=progress)
    study.output.mkdir(parents=True, exist_ok=True)
    (study.output / FIGURES).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def prediction(method: Method) -> Predict:
    """A method's averaged generator on a head at its true pose, float32 on the CPU."""
    generator, config = _generator(method)

    def predict(case: Case) -> np.ndarray:
        us, factor = normalise_ultrasound(case.us, case.fan, config.generator.exponent), config.data.shrink
        out = run_slices(
            generator, shrunk(torch.from_numpy(us)[:, None], factor)[:, 0].numpy(), canonical_axis_mm(),
            neighbours=config.generator.neighbours, location=config.generator.location,
        )  # fmt: skip
        return np.asarray((_grown(torch.from_numpy(out)[:, None], factor)[:, 0].numpy() + 1) / 2)

    return predict


def markdown(study: Study, figures: Mapping[str, Mapping[str, Sequence[float]]], notes: Mapping[str, Any]) -> str:
    """The table as Markdown, with what each method is, its steps, seed and minutes."""
    keys = baselines.columns(figures)
    named = {row(method, study.methods): method for method in study.methods}
    lines = [f"- {key}: {value}" for key, value in notes.items()]
    lines += ["", "| method | " + " | ".join(keys) + " |", "|-|" + "-|" * len(keys)]
    for name, values in figures.items():
        cells = [f"{values[key][0]:.3f} [{values[key][1]:.3f}, {values[key][2]:.3f}]" for key in keys]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| method | what it is | steps | minutes |", "|-|-|-|-|"]
    for name, method in named.items():
        content = checkpoint.load(Path(method.config.output) / checkpoint.CHECKPOINT)
        lines.append(f"| {name} | {method.title} | {content['step']} | {content['elapsed_s'] / 60:.1f} |")
    return "\n".join(lines) + "\n"


def draw(study: Study, split: str, target: Path) -> None:
    """Six simulated slices and six real frames, the same for every method; truth below, where there is one."""
    from PIL import Image, ImageDraw

    data = study.methods[0].config.data
    listed = list(cases(Path(data.folder) / split))
    chosen = [(listed[n % len(listed)], k) for n, k in enumerate((68, 76, 84, 90, 96, 104))]
    frames = load_frames(data.frames, "val") if data.frames else None
    picked = [] if frames is None else np.linspace(0, len(frames) - 1, SHOWN).round().astype(int).tolist()
    rows: list[tuple[str, list[np.ndarray]]] = [("ultrasound", [case.us[k] / 255 for case, k in chosen])]
    if frames is not None:
        rows[0][1].extend(frames.us[n] / 255 for n in picked)
    for method in study.methods:
        generator, config = _generator(method)
        predict = prediction(method)
        images = [predict(_thin(case, k))[k] for case, k in chosen]
        if frames is not None:
            x = torch.cat([frame_input(frames, n, config.generator) for n in picked])
            with torch.inference_mode():
                made = _grown(generator(shrunk(x, config.data.shrink)), config.data.shrink)
            images.extend(((made[:, 0] + 1) / 2).numpy())
        rows.append((row(method, study.methods), images))
    rows.append(("truth", [case.t2[k] for case, k in chosen]))
    height, width = listed[0].us.shape[1:]
    columns = max(len(images) for _, images in rows)
    sheet = Image.new("L", (LABEL_WIDTH + columns * width, len(rows) * height))
    for r, (label, images) in enumerate(rows):
        ImageDraw.Draw(sheet).text((6, r * height + height // 2), label, fill=255)
        for c, image in enumerate(images):
            values = (np.clip(image, 0, 1) * 255).astype(np.uint8)[::-1]  # row j runs to anterior
            sheet.paste(Image.fromarray(values), (LABEL_WIDTH + c * width, r * height))
    sheet.save(target)


def _grown(images: Tensor, factor: int) -> Tensor:
    """(N, 1, H, W) of shrunk slices back at the canonical size, linearly."""
    if factor == 1:
        return images
    return F.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False)


def _thin(case: Case, k: int) -> Case:
    """The case with nothing but slice k and its neighbours, which is all that the picture needs."""
    import dataclasses

    kept = np.zeros_like(case.us)
    fan = np.zeros_like(case.fan)
    kept[k - 1 : k + 2], fan[k - 1 : k + 2] = case.us[k - 1 : k + 2], case.fan[k - 1 : k + 2]
    return dataclasses.replace(case, us=kept, fan=fan)


def row(method: Method, methods: Sequence[Method]) -> str:
    """A method's name, with the seed where there are several."""
    several = sum(other.name == method.name for other in methods) > 1
    return f"{method.name}-{method.config.seed}" if several else method.name


def _generator(method: Method) -> tuple[Generator, TrainingConfig]:
    content = checkpoint.load(Path(method.config.output) / checkpoint.CHECKPOINT)
    config = TrainingConfig.from_json(content["config"])
    generator = Generator(config.generator)
    generator.load_state_dict(content["averaged"])
    return generator.eval().requires_grad_(False), config
