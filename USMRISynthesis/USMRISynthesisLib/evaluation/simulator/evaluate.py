"""`usmri evaluate simulator`: is the simulated ultrasound physically right, and can it be distinguished from real
frames?

All but HC18's frames is simulated.  Frames are made on the fly, and kept in a folder of the machine's own.
"""

from __future__ import annotations

import getpass
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.simulator import frames, two_sample, volumes
from USMRISynthesisLib.evaluation.simulator.appearance import near_over_far

HEADS, FRAMES_A_HEAD = 30, 9
_THREADS = 2
_CLUES = 10
_FEWEST = 3
_VOLUME_KEYS = ("near_cnr", "far_cnr", "far_cnr_whole", "near_far_tissue")


def default_cache() -> Path:
    """Where frames are kept between runs."""
    return Path(tempfile.gettempdir()) / f"usmri-simulator-{getpass.getuser()}"


def simulate(
    data: Path, heads: int, *, frames_a_head: int = FRAMES_A_HEAD, cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[frames.Frames, list[dict[str, Any]]]:  # fmt: skip
    """New heads from all atlas weeks below `data`: their frames, and measures of some of their volumes."""
    if heads < _FEWEST:
        raise Refused("cases", f"{heads} heads are too few.", f"Give --cases {_FEWEST} or more, or a folder.")
    return frames.simulated_frames(
        data, heads, frames_a_head, cache or default_cache(), workers=_THREADS, progress=progress
    )


def evaluate(
    data: Path,
    real: frames.Frames,
    simulated: frames.Frames,
    measured: list[dict[str, Any]],
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All measures; of frames that come from a folder (nothing measured) the two-sample test alone."""
    from USMRISynthesisLib.simulation.anatomy import atlas

    result = compare(real, simulated, progress)
    if not measured:
        return result
    names = atlas.available(data)
    timing = volumes.seconds(atlas.load(data, names[len(names) // 2]), threads=_THREADS)
    return _speckle() | _volumes(measured) | result | {
        "near_far_real": _real_hemispheres(real),
        "seconds_per_volume": timing["acquisition"],
        "seconds_with_anatomy": timing["acquisition"] + timing["anatomy"],
    }  # fmt: skip


def compare(real: frames.Frames, simulated: frames.Frames, progress: Progress | None = None) -> dict[str, Any]:
    """The two-sample test: the network on whole frames and on the head alone, the statistics, and the clues."""
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        whole = two_sample.classify_frames(real, simulated, progress=progress)
        sides = (two_sample.within_head(real), two_sample.within_head(simulated))
        head = two_sample.classify_frames(*sides, progress=progress)
    finally:
        torch.set_num_threads(before)
    statistics, clues = two_sample.classify_statistics(real, simulated)
    return {
        "simulated": True,
        "two_sample_auc": whole.auc,
        "two_sample_auc_interval": list(whole.interval),
        "head_auc": head.auc,
        "head_auc_interval": list(head.interval),
        "statistics_auc": statistics.auc,
        "statistics_auc_interval": list(statistics.interval),
        "real_inside_range": float(np.mean([clue.covered for clue in clues])),
        "real_outside_range_most": [[clue.name, clue.covered] for clue in sorted(clues, key=_covered)[:_FEWEST]],
        "clues": [[clue.name, clue.auc, clue.real, clue.simulated] for clue in clues[:_CLUES]],
        "frames": {
            name: {part: [int((side.part == part).sum()), len(np.unique(side.group[side.part == part]))]
                   for part in frames.PARTS}
            for name, side in (("real", real), ("simulated", simulated))
        },
    }  # fmt: skip


def _covered(clue: two_sample.Clue) -> float:
    return clue.covered


def _speckle() -> dict[str, Any]:
    values = volumes.speckle_snr()
    return {"speckle_snr": float(np.mean(values)), "speckle_snr_range": [min(values), max(values)]}


def _volumes(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the volumes; near over far is the ratio of contrasts: haze and shadows take it below 1."""
    table = {key: np.array([row[key] for row in measured], float) for key in _VOLUME_KEYS}
    planes = np.array([row["hemispheres"] for row in measured], float)
    far = float(np.nanmean(table["far_cnr"]))
    seen = np.isfinite(table["near_cnr"]) & np.isfinite(table["far_cnr"])
    return {
        "volumes": len(measured),
        "views": sorted({row["view"] for row in measured}),
        "far_cnr": far,
        "far_cnr_lowest": float(np.nanmin(table["far_cnr"])),
        "far_cnr_whole": float(np.nanmean(table["far_cnr_whole"])),
        "near_cnr": float(np.nanmean(table["near_cnr"])),
        "near_far_ratio": float(table["near_cnr"][seen].mean() / table["far_cnr"][seen].mean()),
        "near_far_tissue_grey": float(np.nanmedian(table["near_far_tissue"])),
        "near_far_simulated": _medians(planes),
    }


def _real_hemispheres(real: frames.Frames) -> list[float]:
    return _medians(np.array([
        near_over_far(us, fan, (axes[0], axes[1]), probe)
        for us, fan, axes, probe in zip(real.us, real.fan, real.half_axes_mm, real.probe, strict=True)
        if abs(probe[0]) > 0.7  # a probe at the side of the head
    ]))  # fmt: skip


def _medians(pairs: np.ndarray) -> list[float]:
    return [float(np.nanmedian(column)) for column in pairs.T]


def table(result: dict[str, Any]) -> str:
    """The result as text, one measure a line."""
    lines = ["simulated fetal head ultrasound; real frames: HC18"]
    if "speckle_snr" in result:
        low, high = result["speckle_snr_range"]
        lines += [
            f"speckle SNR of the envelope            {result['speckle_snr']:.3f}   [{low:.3f}, {high:.3f}]; ideal 1.91",
            f"far ventricle-to-tissue CNR            {result['far_cnr']:.2f}    "
            f"(lowest of {result['volumes']}: {result['far_cnr_lowest']:.2f}; views {', '.join(result['views'])})",
            f"  walls and choroid's surroundings too  {result['far_cnr_whole']:.2f}",
            f"near over far: ventricle CNR           {result['near_far_ratio']:.2f}    (near {result['near_cnr']:.2f})",
            f"near over far: grey of white matter    {result['near_far_tissue_grey']:.2f}",
            "  in the plane, whole hemispheres: grey {:.2f}, contrast {:.2f}".format(*result["near_far_simulated"]),
            "  the same in real frames:         grey {:.2f}, contrast {:.2f}".format(*result["near_far_real"]),
            f"seconds a volume of 160^3, two cores   {result['seconds_per_volume']:.1f}     "
            f"(with its anatomy {result['seconds_with_anatomy']:.1f})",
        ]
    for key, name in (("two_sample", "whole frames"), ("head", "head only"), ("statistics", "statistics")):
        low, high = result[f"{key}_auc_interval"]
        lines.append(f"two-sample AUC, {name:22s} {result[f'{key}_auc']:.3f}   [{low:.3f}, {high:.3f}]")
    test = {name: result["frames"][name]["test"] for name in ("real", "simulated")}
    lines.append(
        f"  tested on: {test['real'][0]} real frames of {test['real'][1]} fetuses, {test['simulated'][0]} simulated of "
        f"{test['simulated'][1]} heads, none of them seen in training"
    )
    worst = ", ".join(f"{name} {share:.2f}" for name, share in result["real_outside_range_most"])
    lines.append(
        f"real frames inside the simulated 1-99 %, mean of all statistics: {result['real_inside_range']:.2f}"
        f" (least: {worst})"
    )
    lines.append("what still gives it away (AUC alone; medians real, simulated):")
    lines += [f"  {name:24s} {alone:.2f}   {real:7.2f} {sim:7.2f}" for name, alone, real, sim in result["clues"]]
    return "\n".join(lines)
