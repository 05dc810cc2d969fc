"""The figures of a reader study as markdown: Table 1 of Jiao et al. 2019 first, the rest below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REAL = "real"
TEST_TITLE = "TEST of the page: nobody read these images, and no figure here is a result"


def table(figures: Mapping[str, Any]) -> str:
    """Markdown: methods in columns, mean opinion scores of each group of readers in rows; then what backs them."""
    methods = ordered(figures["cases"])
    readers = ", ".join(f"{count} x {label}" for label, count in figures["readers"].items())
    lines = [f"## {figures['title']}", ""]
    if figures["test"]:
        lines += [f"**{TEST_TITLE}.**", ""]
    lines += [
        f"Readers: {readers}. Mean opinion score from 1 (bad) to 5 (excellent), with 95 % bootstrap intervals over "
        "readers and cases; with one reader, over cases alone.",
        "",
        "| Method | | " + " | ".join(_cell(method) for method in methods) + " |",
        "|-" * (len(methods) + 2) + "|",
    ]
    for number, (group, row) in enumerate(figures["mos"].items()):
        lines.append(
            f"| {'MOS, higher is better' if number == 0 else ''} | {group} | {_row(row, methods)} |",
        )
    lines.append("| Cases | | " + " | ".join(str(figures["cases"][method]) for method in methods) + " |")
    marks = figures["marks"]
    shares = (f"{marks[method]['marked_share']:.2f}" if method in marks else "" for method in methods)
    lines.append("| Marked as wrong, share | | " + " | ".join(shares) + " |")
    if len(figures["mos_by_kind"]) > 1:
        lines += ["", "| Profession | " + " | ".join(_cell(method) for method in methods) + " |"]
        lines.append("|-" * (len(methods) + 1) + "|")
        lines += [f"| {_cell(label)} | {_row(row, methods)} |" for label, row in figures["mos_by_kind"].items()]
    lines += ["", "| Readers | Method | compared with | difference | p | p (Holm) | same cases |", "|-|-|-|-|-|-|-|"]
    for group, pairs in figures["comparisons"].items():
        for one in pairs:
            lines.append(
                f"| {group} | {_cell(one['method'])} | {_cell(one['other'])} | {_figure(one['difference'])} | "
                f"{one['p']:.4f} | {one['p_holm']:.4f} | {'yes' if one['paired'] else 'no'} |"
            )
    intra = figures["intra"]
    lines += ["", "| Agreement | images | weighted kappa | ICC(2,1) | same rating, share |", "|-|-|-|-|-|"]
    lines.append(
        f"| readers with themselves | {intra['pairs']} | {_number(intra['weighted_kappa'])} | | "
        f"{_number(intra['same_share'])} |"
    )
    for group, one in figures["inter"].items():
        if one["readers"] > 1:
            lines.append(
                f"| between {one['readers']} readers: {group} | {one['images']} | {_number(one['weighted_kappa'])} | "
                f"{_number(one['icc'])} | |"
            )
    if figures["incomplete"]:
        lines += ["", f"Incomplete, counted with what they hold: {', '.join(figures['incomplete'])}."]
    return "\n".join(lines)


def ordered(cases: Mapping[str, int]) -> list[str]:
    """The methods as in the paper: the real MR last."""
    return sorted(cases, key=lambda method: (method.lower() == REAL, method))


def _row(row: Mapping[str, Any], methods: Sequence[str]) -> str:
    return " | ".join(_figure(row[method]) for method in methods)


def _figure(value: Sequence[float] | None) -> str:
    return "" if value is None else f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(text: str) -> str:
    """A name that cannot break the table."""
    return " ".join(text.replace("|", "\\|").split())
