"""`usmri evaluate normal`: the whole product on heads simulated from normal averages, with several sets of weights.

Nothing was trained on these averages, nor on the scatter model that the configuration names; the ultrasound is
simulated all the same, and every figure says so. Each result is compared with the truth in canonical space, by the true
pose: what a wrong pose costs is in the figures. Refused heads are gone on with; where nothing is made, NCC is 0.

    ncc                     inside the brain where the beam was
    residual_ncc            of what differs from the mean MR (of the training averages) at the true position
    residual_ncc_normal     likewise, from the mean of the normal averages, which knows normal anatomy
    fitted atlas, mean MR   in the pose that these weights found: a week's average, and that of all weeks
    mean MR, true pose      the mean MR where it should be
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.evaluation.metrics.image import ncc, residual_ncc
from USMRISynthesisLib.evaluation.normal.heads import NormalHead, read_heads, simulate
from USMRISynthesisLib.evaluation.real import fitted_atlas
from USMRISynthesisLib.evaluation.real.cases import run
from USMRISynthesisLib.evaluation.real.volumes import TURNED_DEG, compare
from USMRISynthesisLib.evaluation.synthesis.evaluate import interval
from USMRISynthesisLib.geometry.canonical import to_canonical
from USMRISynthesisLib.models import store
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.synthesis.result import Synthesis

BUNDLED = "bundled"
TRUE_POSE = "mean MR, true pose"
SLICES = slice(44, 117, 4)  # axial ones that hold brain


def evaluate(
    data: Path,
    config: Path,
    *,
    folders: Sequence[Path] = (),
    model: str = "default",
    device: str = "auto",
    planes: str = "axial",
    limit: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Figures of the bundled weights, and of each folder of models, on the same heads.

    limit: that many heads of the configuration, evenly chosen. Raises Refused, Failed: configuration, atlas, models.
    """
    specs = read_heads(config, data)
    if limit is not None and limit < len(specs):
        specs = [specs[n] for n in np.linspace(0, len(specs) - 1, limit).round().astype(int)]
    sets: list[tuple[str, Path | None]] = [(BUNDLED, None), *((folder.name, folder) for folder in folders)]
    if len({name for name, _ in sets}) < len(sets):  # two folders of one name
        sets = [(BUNDLED, None), *((str(folder), folder) for folder in folders)]
    heads = []
    for number, spec in enumerate(specs):
        heads.append(simulate(data, spec))
        if progress is not None:
            progress(0.5 * (number + 1) / len(specs), f"simulated {heads[-1].name}")
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for index, (name, folder) in enumerate(sets):
        with store.models_from(folder) if folder is not None else nullcontext():
            rows[name] = {}
            for number, head in enumerate(heads):
                result, accepted = run(head.volume, model=model, device=device, planes=planes)
                rows[name][head.name] = measure(data, head, result, accepted)
                if progress is not None:
                    done = (index + (number + 1) / len(heads)) / len(sets)
                    progress(0.5 + 0.5 * done, f"{name}: {head.name}")
    return summarise(rows, sorted({spec.machine.scatter for spec in specs}), planes)


def measure(data: Path, head: NormalHead, result: Synthesis | None, accepted: bool) -> dict[str, Any]:
    """The figures of one head: its pose, and NCC and residual NCC of each method, by name."""
    mean = fitted_atlas.mean_mr(data).astype(np.float32)
    normal = fitted_atlas.mean_mr(data, atlas.NORMAL_FOLDER).astype(np.float32)
    truth, seen = head.t2.astype(np.float32)[SLICES], head.seen[SLICES]
    found: dict[str, Any] = {"accepted": bool(accepted), "week": head.week}
    shown: dict[str, np.ndarray] = {TRUE_POSE: mean}
    if result is not None:
        errors = compare(result.transform, head.to_canonical)
        found |= dict(zip(("rotation_deg", "translation_mm", "scale"), errors, strict=True))
        for name, image in fitted_atlas.images(data, result).items():
            shown[name] = to_canonical(image.astype(np.float32), result.mr.ijk_to_ras, head.to_canonical)[0] / 1000
    made = {}
    for name in (*fitted_atlas.METHODS, TRUE_POSE):
        image = shown[name][SLICES] if name in shown else np.zeros_like(truth)
        made[name] = {
            "ncc": ncc(image, truth, seen),
            "residual_ncc": residual_ncc(image, truth, mean[SLICES], seen),
            "residual_ncc_normal": residual_ncc(image, truth, normal[SLICES], seen),
        }
    return found | {"methods": made}


def summarise(
    rows: dict[str, dict[str, dict[str, Any]]], scatter: Iterable[str], planes: str = "axial"
) -> dict[str, Any]:
    """Flat figures of the bundled weights, and a table with a row for each set of weights and each baseline.

    Intervals are 95 %, bootstrap over heads.
    """
    first = next(iter(rows.values()))
    result: dict[str, Any] = {
        "simulated": True,
        "heads": len(first),
        "scatter_model": ", ".join(scatter),
        "planes": planes,
    }
    table: dict[str, dict[str, Any]] = {}
    for name, own in rows.items():
        found = [row for row in own.values() if "rotation_deg" in row]
        ours = _means(own, fitted_atlas.OURS)
        ours |= {
            "accepted_share": float(np.mean([row["accepted"] for row in own.values()])),
            "turned_share": float(np.mean([row["rotation_deg"] > TURNED_DEG for row in found])) if found else 1.0,
            "rotation_deg_median": float(np.median([row["rotation_deg"] for row in found])) if found else float("nan"),
            "translation_mm_median": float(np.median([row["translation_mm"] for row in found]))
            if found
            else float("nan"),
        }
        table[name] = ours
        for method in fitted_atlas.METHODS[1:]:
            table[f"{method}, pose of {name}"] = _means(own, method)
    table[TRUE_POSE] = _means(first, TRUE_POSE)
    bundled = table[next(iter(rows))]
    result |= {key: value[0] if isinstance(value, list) else value for key, value in bundled.items()}
    fitted = table[f"{fitted_atlas.FITTED}, pose of {next(iter(rows))}"]
    result |= {f"{key}_fitted_atlas": fitted[key][0] for key in ("ncc", "residual_ncc")}
    result["ncc_mean_mr"] = table[TRUE_POSE]["ncc"][0]
    return result | {"weights": table, "per_case": rows}


def _means(own: dict[str, dict[str, Any]], method: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    keys = next(iter(own.values()))["methods"][method]
    return {key: interval(np.array([row["methods"][method][key] for row in own.values()]), rng) for key in keys}


def table(result: dict[str, Any]) -> str:
    """The rows as text, means only."""
    lines = [
        f"heads simulated from normal averages ({result['heads']}, scatter model: {result['scatter_model']}), "
        "the whole product"
    ]
    keys = list(dict.fromkeys(key for row in result["weights"].values() for key in row))
    lines.append(f"{'':36s} " + " ".join(f"{key[:19]:>19s}" for key in keys))
    for name, row in result["weights"].items():
        cells = []
        for key in keys:
            value = row.get(key)
            value = value[0] if isinstance(value, list) else value
            cells.append(" " * 19 if value is None else f"{value:19.3f}")
        lines.append(f"{name:36s} " + " ".join(cells).rstrip())
    return "\n".join(lines)
