"""docs/results.md, docs/deformation.md and the README's table, from the evaluation commands' JSON (`make results`).

    python -m USMRISynthesisLib.evaluation.results_page docs/results docs/results.md README.md

A record is what `usmri evaluate ... --record FILE` writes: {"title", "command", "date", "version", "result"}. The
figures that a training wrote into a bundled model's manifest are records, too. Nothing of the page is typed by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.evaluation import deformation_page

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
# In the page's order; a record of another name comes after these.
ORDER = (
    "real",
    "real-before",
    "normal",
    "content",
    "synthesis-validation",
    "synthesis-benchmark",
    "alignment-test",
    "biometry",
    "expected-error",
    "spacing",
    "registration",
    "study",
    "live",
    "live-busy",
    "cohort",
    "cohort-frames",
    "openvino",
    "speed",
)
# What is too long for a page, and what the header says already.
LEFT_OUT = {"per_case", "failures", "other_images", "rivals", "groups", "real", "order", "by"}
_OTHER_HEAD = "another head: from starts within 20 deg and 15 mm"
# The README's rows: text, record, keys, digits, and the keys of what it is compared with.
SUMMARY: tuple[tuple[str, str, str, int, tuple[tuple[str, str], ...]], ...] = (
    ("real 3D heads accepted, share", "real", "volumes_accepted_share", 2, ()),
    ("real 3D heads: rotation against landmarks, median, deg", "real", "rotation_deg_median", 1, ()),
    ("real frames without a brain taken for a head, share", "real", "no_brain_accepted_share", 2, ()),
    ("real frames, fetuses not trained on: cavum brighter than the rest, AUC", "real", "cavum_auc_held_out", 2,
     (("with the cavum painted over", "cavum_auc_covered_held_out"),
      ("fitted atlas", "methods.fitted atlas.cavum_auc_held_out"))),
    ("real frames of one fetus more alike than of two, AUC", "real", "identity_auc", 2,
     (("fitted atlas", "identity_auc_fitted_atlas"), ("mean MR", "methods.mean MR.identity_auc"))),
    ("normal averages, scanned by a simulator never trained on: NCC in the brain", "normal", "ncc", 2,
     (("fitted atlas", "ncc_fitted_atlas"), ("mean MR at the true pose", "ncc_mean_mr"))),
    ("... residual NCC (what differs from the mean MR)", "normal", "residual_ncc", 2,
     (("fitted atlas", "residual_ncc_fitted_atlas"),)),
    ("own simulator, unseen weeks: residual NCC", "model-default", "residual_ncc", 2, (("model `paper`",
     "model-paper:residual_ncc"),)),
    ("simulated heads of unseen weeks: rotation, median, deg", "alignment-test", "rotation_deg_median", 1, ()),
    ("head outline, real HC18 frames: Dice", "alignment-test", "hc18.dice_mean", 3, ()),
    ("slice spacing, real stacks: NCC with stacks of other orientations", "spacing", "real_stacks.ours.ncc", 3,
     (("cubic", "real_stacks.cubic B-spline.ncc"),)),
    ("rigid registration with MR of another head, simulated ultrasound, mutual information: landmark error, mm",
     "registration", f"{_OTHER_HEAD}.MR-like, mutual information (SimpleITK).tre_mm", 1,
     (("ultrasound itself", f"registration:{_OTHER_HEAD}.ultrasound, mutual information (SimpleITK).tre_mm"),
      ("fitted atlas", f"registration:{_OTHER_HEAD}.fitted atlas, mutual information (SimpleITK).tre_mm"))),
    ("live, 640x480 at 30/s, two cores: images a second", "live", "images_per_s", 0, ()),
)  # fmt: skip

Record = dict[str, Any]


def read_records(folder: Path) -> dict[str, Record]:
    """Name -> record of every JSON file of a folder, in the page's order. Raises Failed: one of them is none."""
    found = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: (_place(path.stem), path.stem)):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            missing = [key for key in ("title", "command", "date", "version", "result") if key not in record]
        except ValueError as error:
            raise Failed("record", f"{path.name} is not JSON.", "Write it again with --record.") from error
        if missing:
            raise Failed("record", f"{path.name} lacks {', '.join(missing)}.", "Write it again with --record.")
        found[path.stem] = record
    return found


def manifest_records(models: Path) -> dict[str, Record]:
    """The figures in the manifests of bundled models, as records named `model-NAME`."""
    found = {}
    for path in sorted(models.glob("*/manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        figures = dict(manifest.get("figures") or {})
        if figures:
            measured = figures.pop("measured_on", "not stated")
            found[f"model-{manifest['name']}"] = {
                "title": f"Model `{manifest['name']}`: figures of its export",
                "command": figures.pop("printed_by", "usmri train"),
                "date": manifest["training"].get("date", "") if isinstance(manifest["training"], dict) else "",
                "version": manifest["version"],
                "note": f"Measured on {measured}.",
                "result": figures,
            }
    return found


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def page(records: Mapping[str, Record]) -> str:
    """docs/results.md."""
    lines = [
        "# Results",
        "",
        "Written by `make results` from the files in `docs/results/` and the manifests of the bundled models, which",
        "the commands below wrote. Intervals are 95 % bootstrap intervals. A simulator is not a patient.",
    ]
    if "study" in records:
        lines.append("The study's deformation scores beside the paper's Table 1: [deformation.md](deformation.md).")
    for record in records.values():
        origin = f"`{record['command']}`, {record['date']}, version {record['version']}."
        lines += ["", f"## {record['title']}", "", f"{origin} {record.get('note', '')}".rstrip(), ""]
        lines += _tables(record["result"])
    return "\n".join(lines) + "\n"


def _tables(result: Mapping[str, Any]) -> Iterator[str]:
    """Plain figures first, then each group of figures as a table of its own."""
    plain = {key: value for key, value in result.items() if key not in LEFT_OUT and _is_figure(value)}
    if plain:
        yield from _narrow(plain)
    for key, group in result.items():
        if key in LEFT_OUT or not isinstance(group, Mapping) or not group:
            continue
        yield from ("", f"**{_words(key)}**", "")
        if all(isinstance(one, Mapping) for one in group.values()):
            yield from _wide(group)
        else:
            yield from _narrow({name: one for name, one in group.items() if _is_figure(one)})


def _narrow(figures: Mapping[str, Any]) -> Iterator[str]:
    """One measure a row."""
    yield from ("| measure | value |", "|-|-|")
    yield from (f"| {_words(key)} | {_text(value)} |" for key, value in figures.items())


def _wide(group: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One row a name, one column a measure."""
    columns = list(dict.fromkeys(key for row in group.values() for key, value in row.items() if _is_figure(value)))
    yield "| | " + " | ".join(_words(column) for column in columns) + " |"
    yield "|-" * (len(columns) + 1) + "|"
    for name, row in group.items():
        yield f"| {name} | " + " | ".join(_text(row[key]) if key in row else "" for key in columns) + " |"


def _is_figure(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 3 and all(isinstance(one, (int, float)) for one in value)
    return isinstance(value, (int, float, str))


def _text(value: Any, digits: int = 3) -> str:
    if isinstance(value, list):
        middle, low, high = value
        return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 2 else f"{value:.{digits}f}"
    return str(value)


def _words(key: str) -> str:
    return key.replace("_", " ")


def summary(records: Mapping[str, Record]) -> str:
    """The README's table: the rows of SUMMARY whose records are there."""
    lines = ["| | ours | compared with |", "|-|-|-|"]
    for text, name, key, digits, others in SUMMARY:
        value = _at(records.get(name, {}).get("result", {}), key)
        if value is None:
            continue
        beside = [(label, _beside(records, name, other)) for label, other in others]
        lines.append(
            f"| {text} | {_text(value, digits)} | "
            + ", ".join(f"{label} {_text(one, digits)}" for label, one in beside if one is not None)
            + " |"
        )
    return "\n".join(lines)


def _beside(records: Mapping[str, Record], name: str, key: str) -> Any:
    """The value under a key of the row's own record, or of another one's (RECORD:KEY)."""
    other, found, inner = key.partition(":")
    return _at(records.get(other if found else name, {}).get("result", {}), inner if found else key)


def _at(result: Any, key: str) -> Any:
    """The value under a dotted key, or None."""
    for part in key.split("."):
        if not isinstance(result, Mapping) or part not in result:
            return None
        result = result[part]
    return result


def put_between(text: str, content: str) -> str:
    """The text with the part between BEGIN and END replaced. Raises Failed: it has no such part."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise Failed("readme", "The README has no place for the results.", f"Add {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def deformation(records: Mapping[str, Record], configuration: Path) -> str:
    """docs/deformation.md, from the study's record and its configuration, where that is there."""
    text = configuration.read_text(encoding="utf-8") if configuration.is_file() else ""
    return deformation_page.page(records["study"], deformation_page.titles_of(text), "study.jpg")


def main(
    folder: str, target: str, readme: str, models: str = "model_weights", study: str = "configs/study.toml"
) -> int:
    """Write the page, the one on deformation beside it where there is a study, and the README's table."""
    records = read_records(Path(folder)) | manifest_records(Path(models))
    Path(target).write_text(page(records), encoding="utf-8")
    if "study" in records:
        Path(target).with_name("deformation.md").write_text(deformation(records, Path(study)), encoding="utf-8")
    path = Path(readme)
    path.write_text(put_between(path.read_text(encoding="utf-8"), summary(records)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:6]))
