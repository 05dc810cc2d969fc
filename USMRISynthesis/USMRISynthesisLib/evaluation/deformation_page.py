"""docs/deformation.md: the study's deformation scores beside Table 1 of Jiao et al. (2019), written by `make results`.

The study's figures come from its record (`docs/results/study.json`), the methods' titles from its configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy import stats

SCORE = "deformation, gated"
TRUTH, MEAN = "the truth", "mean MR"


@dataclass(frozen=True)
class Published:
    """A column of the paper's Table 1. ours: the study's name of that method. expert, beginner: mean opinion, 1-5."""

    title: str
    ours: str
    expert: float
    beginner: float
    deformation: float


# Jiao et al., "Self-supervised Ultrasound to MRI Fetal Brain Image Synthesis", MLMI 2019, Table 1.
TABLE_1 = (
    Published("AE", "ae", 1.00, 1.01, 0.97),
    Published("GAN", "gan", 2.05, 2.75, 0.78),
    Published("CycleGAN", "cyclegan", 2.50, 3.42, 0.66),
    Published("Ours (w/o bi-lat)", "no-bilat", 3.05, 3.69, 0.55),
    Published("Ours (w/o struct.)", "no-struct", 3.45, 3.87, 0.65),
    Published("Ours (w/o att.)", "no-att", 3.30, 3.65, 0.47),
    Published("Ours", "paper", 3.90, 4.08, 0.46),
    Published("Real", TRUTH, 4.35, 4.23, 0.00),
)

_ABOUT = """\
A slice that is made is registered to the true slice by free-form deformation; the less it must be deformed, the lower
the score. **The two columns of scores are not in one unit: compare the orders.** Jiao et al. (2019) give the average
Jacobian normalised to [0, 1], against a real MR at a similar plane of another fetus, and say no more about it. Ours is
the mean of |ln det J| over the brain, against the true slice of a simulated head; a slice with less information about
the truth than the mean MR gets that slice's worst score, for an empty image deforms nothing. All methods here have our
networks' widths and 2,000 steps on simulated heads and real frames; the paper's learnt from real ultrasound and MR."""


def titles_of(configuration: str) -> dict[str, str]:
    """Method -> title, from the text of the study's configuration."""
    return dict(re.findall(r'^\[methods\.([\w-]+)\]\s*\ntitle = "(.*)"', configuration, re.MULTILINE))


def scores_of(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """Method -> deformation score of each seed, from a study's record."""
    methods = record["result"]["methods"]
    return {name: [float(part) for part in str(row[SCORE]).split("/")] for name, row in methods.items() if SCORE in row}


def page(record: Mapping[str, Any], titles: Mapping[str, str], picture: str) -> str:
    """The whole page, Markdown. picture: its name beside the page."""
    scores = scores_of(record)
    middle = {name: sum(values) / len(values) for name, values in scores.items()}
    both = [column for column in TABLE_1 if column.ours in middle]
    trained = [column for column in both if column.ours != TRUTH]
    lines = [
        "# Deformation score, beside the paper's Table 1",
        "",
        f"Written by `make results` from `docs/results/study.json` (`{record['command']}`, {record['date']},",
        f"version {record['version']}). {record.get('note', '')}".rstrip(),
        "",
        _ABOUT,
        "",
        "| Table 1 | in the study | paper: MOS expert / beginner | paper: deformation | rank "
        "| here: deformation (seeds) | rank |",
        "|-|-|-|-|-|-|-|",
    ]
    theirs = _ranks({column.ours: column.deformation for column in trained})
    here = _ranks({column.ours: middle[column.ours] for column in trained})
    for column in sorted(both, key=lambda one: one.deformation):
        name = column.ours
        lines.append(
            f"| {column.title} | `{name}` | {column.expert:.2f} / {column.beginner:.2f} | {column.deformation:.2f} | "
            f"{theirs.get(name, '')} | {_seeds(scores[name])} | {here.get(name, '')} |"
        )
    lines += ["", _verdict(trained, middle), "", "## All methods of the study", "", "Lowest first.", ""]
    lines += ["| method | what it is | deformation (seeds) | paper |", "|-|-|-|-|"]
    paper = {column.ours: f"{column.deformation:.2f}" for column in TABLE_1}
    for name in sorted(middle, key=lambda one: middle[one]):
        lines.append(f"| {name} | {titles.get(name, '')} | {_seeds(scores[name])} | {paper.get(name, '')} |")
    lines += [
        "",
        "The opinions (MOS) are the paper's. No reader has scored our images.",
        "",
        "## Pictures",
        "",
        "Seed 0. Top row: ultrasound, six SIMULATED frames and six real ones (HC18); then each method's MR-like image,",
        "SYNTHETIC - not for diagnosis; last row: the truth, which only simulated frames have.",
        "",
        f"![One row a method, one column a frame]({picture})",
    ]
    return "\n".join(lines) + "\n"


def _seeds(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    return {name: place for place, name in enumerate(sorted(values, key=lambda one: values[one]), start=1)}


def _verdict(columns: list[Published], middle: Mapping[str, float]) -> str:
    """What the two orders say of each other, and which method has the lowest score here."""
    rho = stats.spearmanr([c.deformation for c in columns], [middle[c.ours] for c in columns]).statistic
    best = min((c.ours for c in columns), key=lambda name: middle[name])
    lowest = min((name for name in middle if name != TRUTH), key=lambda name: middle[name])
    text = (
        f"Rank correlation of the two orders over {len(columns)} methods: {rho:.2f} (Spearman). Among them the lowest "
        f"score here has `{best}`."
    )
    if MEAN in middle:
        above = sum(value < middle[MEAN] for name, value in middle.items() if name != TRUTH)
        text += (
            f" Lowest of everything but the truth is {lowest} ({middle[lowest]:.2f}); {above or 'no'} method"
            f"{'s need' if above != 1 else ' needs'} less deformation than the mean MR ({middle[MEAN]:.2f}), which "
            "shows nothing of the head at hand. The score rewards an image that looks like an average."
        )
    return text
