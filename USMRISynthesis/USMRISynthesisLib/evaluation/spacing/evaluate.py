"""Methods of reducing slice spacing, side by side on isotropic MR that was thinned, and on real thick stacks.

Held-out atlas weeks and held-out deformations of them, thinned by 3 and by 4 through the Gaussian slice profile in each
of three orientations. Every method gets the same thick slices and is measured on the same truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.datasets.stacks import ORIENTATIONS, held_out, thinned
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.spacing.stacks import STACK_SHAPE, compare_stacks, seconds_of_a_stack
from USMRISynthesisLib.spacing import profile
from USMRISynthesisLib.spacing.inference import super_resolve
from USMRISynthesisLib.spacing.latent import synthesise
from USMRISynthesisLib.spacing.model import LoadedModel, load_model
from USMRISynthesisLib.spacing.motion import prepared
from USMRISynthesisLib.spacing.noise import noise_of

FACTORS = (3, 4)
VIEWS = ("in-plane", "through-plane")
OURS, CONSISTENT, LINEAR_ESTIMATE, VAE_ALONE = "ours", "ours, consistent", "best linear estimate", "VAE alone"
_INTERPOLATION = {"nearest": 0, "linear": 1, "cubic B-spline": 3}
_WINDOW = 7  # pixels of SSIM's uniform window (Wang et al. 2004; K1 = 0.01, K2 = 0.03)

Method = Callable[[np.ndarray, int], np.ndarray]
Rival = Callable[[np.ndarray, int, float], np.ndarray]


def methods_of(loaded: LoadedModel, pixel_mm: float) -> dict[str, Method]:
    """Name -> (thick (n, h, w), m) -> fine (m, h, w)."""

    def linear(order: int) -> Method:
        return lambda thick, m: profile.apply(profile.interpolation(len(thick), m, order), thick)

    def ours(thick: np.ndarray, m: int) -> np.ndarray:
        ready = prepared(thick, m, pixel_mm)
        return super_resolve(loaded.module, ready.slices, m, noise=ready.noise, device=loaded.device)

    return {
        **{name: linear(order) for name, order in _INTERPOLATION.items()},
        LINEAR_ESTIMATE: lambda thick, m: profile.apply(profile.estimation(len(thick), m, noise_of(thick, m)), thick),
        VAE_ALONE: lambda thick, m: synthesise(loaded.module.vae, thick, m, loaded.device),
        OURS: ours,
    }  # fmt: skip


def evaluate(
    data: Path,
    split: str,
    *,
    model: str = "spacing",
    device: str = "auto",
    rivals: Mapping[str, Rival] | None = None,
    rival_cases: int = 1,
    limit: int | None = None,
    pictures: Path | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Figures of all methods; `limit` keeps that many cases, spread over all; the real stacks are compared where they
    are. rivals: name -> (thick slices (n, h, w), factor, mm a voxel) -> fine ones (n * factor, h, w), for what takes
    long, because it trains on every case: they get `rival_cases` of the cases.

    The result: "psnr" and "ssim" (method -> mean over cases and views), "by" (the same by view, factor and
    orientation), "seconds_stack" and "processor_seconds_stack" (a 320x320x22 stack), "consistency" (ours, before the
    projection, and "consistency_projected" after it), "rivals", and what
    `compare_stacks` gives. Raises Refused, Failed.
    """
    loaded = load_model(model, device)
    cases = [
        (head, factor, orientation)
        for head in held_out(data, split)
        for factor in FACTORS
        for orientation in ORIENTATIONS
    ]
    if limit:
        cases = [cases[n] for n in np.unique(np.linspace(0, len(cases) - 1, limit).round().astype(int))]
    methods = methods_of(loaded, cases[0][0].voxel_mm)
    rows: list[dict[str, Any]] = []
    residuals: dict[str, list[float]] = {OURS: [], CONSISTENT: []}
    rivals = dict(rivals or {})
    chosen = {int(n) for n in np.linspace(0, len(cases) - 1, rival_cases).round()} if rivals else set()
    waited: dict[str, list[float]] = {name: [] for name in rivals}
    for number, (head, factor, orientation) in enumerate(cases):
        if progress is not None:
            progress(0.8 * number / len(cases), f"{head.name}, {orientation}, 1:{factor}")
        truth, thick = thinned(head, factor, orientation)
        made = {name: method(thick, len(truth)) for name, method in methods.items()}
        made[CONSISTENT] = profile.project(made[OURS], thick)
        for name, values in residuals.items():
            values.append(profile.residual(made[name], thick))
        for name, rival in rivals.items() if number in chosen else ():
            started = time.perf_counter()
            made[name] = rival(thick, factor, head.voxel_mm)
            waited[name].append(time.perf_counter() - started)
        for name, fine in made.items():
            for view, (psnr, ssim) in by_view(fine, truth).items():
                rows.append(
                    {
                        "case": number,
                        "method": name,
                        "factor": factor,
                        "orientation": orientation,
                        "view": view,
                        "psnr": psnr,
                        "ssim": ssim,
                    }
                )
    names = [*methods, CONSISTENT]
    seconds, used = seconds_of_a_stack(loaded)
    result: dict[str, Any] = {
        "split": split, "model": model, "cases": len(cases), "device": str(loaded.device),
        "psnr": _means(rows, "psnr", names), "ssim": _means(rows, "ssim", names),
        "by": {key: {str(value): {"psnr": _means(some, "psnr", names), "ssim": _means(some, "ssim", names)}
                     for value in values for some in [[r for r in rows if r[key] == value]] if some}
               for key, values in (("view", VIEWS), ("factor", FACTORS), ("orientation", ORIENTATIONS))},
        "consistency": float(np.mean(residuals[OURS])), "consistency_projected": float(np.mean(residuals[CONSISTENT])),
        "seconds_stack": seconds, "processor_seconds_stack": used,
        "rivals": _rivals_table(rows, waited, sorted(chosen)),
    }  # fmt: skip
    try:
        result |= compare_stacks(
            data, loaded, pictures, lambda share, name: progress(0.85 + 0.15 * share, name) if progress else None
        )
    except Refused as error:
        result["real"] = {"absent": str(error)}
    if progress is not None:
        progress(1.0, "Done")
    return result


def by_view(fine: np.ndarray, truth: np.ndarray) -> dict[str, tuple[float, float]]:
    """PSNR and SSIM of (m, h, w) images by view: mean over the slices that show something.

    The range is the truth's 99.9th percentile over the volume, the same for every slice and method.
    """
    top = float(np.percentile(truth, 99.9))
    figures = []
    for axis in range(3):
        a, b = np.moveaxis(fine, axis, 0), np.moveaxis(truth, axis, 0)
        shown = (b > 0.05 * top).mean(axis=(1, 2)) > 0.05
        a, b = a[shown], b[shown]
        error = np.mean((a - b) ** 2, axis=(1, 2), dtype=np.float64)
        psnr = float(np.mean(10 * np.log10(top**2 / np.maximum(error, 1e-12 * top**2))))
        figures.append((psnr, float(ssim_map(a, b, top).mean())))
    through = tuple(float(np.mean(pair)) for pair in zip(figures[1], figures[2], strict=True))
    return {"in-plane": figures[0], "through-plane": (through[0], through[1])}


def ssim_map(a: np.ndarray, b: np.ndarray, top: float) -> np.ndarray:
    """SSIM (Wang et al. 2004, equation 13) of stacks of images (n, h, w), a uniform 7x7 window."""

    def mean(x: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.uniform_filter(x, (0, _WINDOW, _WINDOW)))

    a, b = a.astype(np.float64), b.astype(np.float64)
    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
    c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
    return np.asarray((2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)))


def _means(rows: Sequence[Mapping[str, Any]], key: str, methods: Sequence[str]) -> dict[str, float]:
    return {name: float(np.mean([row[key] for row in rows if row["method"] == name])) for name in methods}


def _rivals_table(
    rows: Sequence[Mapping[str, Any]], waited: Mapping[str, Sequence[float]], cases: Sequence[int]
) -> dict[str, Any]:
    """What trains on every case beside ours and cubic, on the cases that it got, or that there was none."""
    if not waited:
        return {"absent": "neither --baseline-command nor --single-stack-minutes was given"}
    compared = {
        name: {
            key: float(np.mean([r[key] for r in rows if r["method"] == name and r["case"] in cases]))
            for key in ("psnr", "ssim")
        }
        for name in (*waited, "cubic B-spline", LINEAR_ESTIMATE, OURS)
    }
    for name, seconds in waited.items():
        compared[name]["seconds_a_case"] = float(np.mean(seconds))
    return {"cases": list(cases), "methods": compared}


def table(result: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"slice spacing, {result['cases']} cases of the split {result['split']!r}, model {result['model']!r}",
        f"{'':24s} {'PSNR dB':>8s} {'SSIM':>7s}   " + "  ".join(f"{view} PSNR / SSIM" for view in VIEWS),
    ]
    for name in result["psnr"]:
        views = "  ".join(
            f"{result['by']['view'][v]['psnr'][name]:13.2f} / {result['by']['view'][v]['ssim'][name]:.3f}"
            for v in VIEWS
        )
        lines.append(f"{name:24s} {result['psnr'][name]:8.2f} {result['ssim'][name]:7.4f}   {views}")
    for key in ("factor", "orientation"):
        for value, figures in result["by"][key].items():
            lines.append(f"{key} {value}: " + ", ".join(f"{n} {v:.2f} dB" for n, v in figures["psnr"].items()))
    shape = "x".join(str(n) for n in (STACK_SHAPE[1], STACK_SHAPE[2], STACK_SHAPE[0]))
    lines += [
        f"consistency: {result['consistency']:.3%} of the range, {result['consistency_projected']:.4%} projected",
        f"a {shape} stack: {result['seconds_stack']:.1f} s on {result['device']}, "
        f"{result['processor_seconds_stack']:.1f} s of its processors",
    ]
    trained = result["rivals"]
    if "absent" in trained:
        lines.append(f"trained on every case: {trained['absent']}")
    else:
        lines.append(
            f"on {len(trained['cases'])} cases, with what trains on each: "
            + ", ".join(
                f"{name} {value['psnr']:.2f} dB / {value['ssim']:.3f}"
                + (f" in {value['seconds_a_case']:.0f} s" if "seconds_a_case" in value else "")
                for name, value in trained["methods"].items()
            )
        )
    if "absent" in result["real"]:
        lines.append(f"real stacks: {result['real']['absent']}")
    for name, values in result.get("real_stacks", {}).items():
        mean, low, high = values["ahead_of_cubic"]
        lines.append(
            f"real stacks: {name}: NCC with orthogonal stacks {values['ncc'][0]:.4f}, "
            f"{mean:+.4f} [{low:+.4f}, {high:+.4f}] against cubic"
        )
    return "\n".join(lines)
