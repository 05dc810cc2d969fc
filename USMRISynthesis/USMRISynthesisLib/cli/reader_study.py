"""`usmri study-page` and `study-score`: a reader study, from a folder of pictures to a table."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from USMRISynthesisLib.cli import options as shared
from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.errors import Refused


def add_commands(commands: Any) -> None:
    """The commands' parsers."""
    made = shared.add_command(
        commands, "study-page", "make the page of a reader study, for any browser and without a network", study_page
    )
    made.add_argument(
        "folder",
        metavar="FOLDER",
        help="holds a folder of pictures for each method; the real MR is called real, and a case has one name in all",
    )
    made.add_argument("page", metavar="OUT", help="the page (.html); its key is written beside it (.key.json)")
    made.add_argument("--title", default="Reader study", help="heading of the page; no patient's name")
    made.add_argument("--consent", metavar="FILE", help="text that readers agree to, instead of the page's own")
    made.add_argument("--repeats", type=int, metavar="N", help="images that are shown twice (a tenth of them)")
    made.add_argument("--seed", type=int, metavar="N", help="draw the same repeats and names again")

    scored = shared.add_command(commands, "study-score", "what the readers of a study say together", study_score)
    scored.add_argument(
        "files", metavar="FILE", nargs="+", help="readings, as the page saved them: one for each reader"
    )
    scored.add_argument("--key", required=True, metavar="FILE", help="the key of the study (.key.json)")


def study_page(options: Namespace) -> Outcome:
    """`usmri study-page FOLDER OUT`: the page and its key."""
    from USMRISynthesisLib.evaluation.reader_study.build import build_study
    from USMRISynthesisLib.evaluation.reader_study.form import CONSENT

    made = build_study(
        Path(options.folder),
        Path(options.page),
        title=options.title,
        consent=_paragraphs(Path(options.consent)) if options.consent else CONSENT,
        repeats=options.repeats,
        seed=options.seed,
    )
    methods = ", ".join(f"{count} x {name}" for name, count in made["methods"].items())
    text = (
        f"Wrote {made['page']}: {methods}; {made['repeats']} shown twice. "
        f"Keep {Path(made['key']).name} from the readers."
    )
    return text, made


def study_score(options: Namespace) -> Outcome:
    """`usmri study-score FILE... --key KEY`: the table as markdown; with --json its figures."""
    from USMRISynthesisLib.evaluation.reader_study.readings import read_key, read_readings
    from USMRISynthesisLib.evaluation.reader_study.score import score_study
    from USMRISynthesisLib.evaluation.reader_study.table import table

    key = read_key(Path(options.key))
    figures = score_study(read_readings([Path(name) for name in options.files], key), key)
    return table(figures), figures


def _paragraphs(path: Path) -> list[str]:
    """The paragraphs of a text file, which empty lines part. Raises Refused."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise Refused("consent-text", f"The text {path.name} cannot be read.", "Give a text file in UTF-8.") from error
    found = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    if not found:
        raise Refused("consent-text", f"The text {path.name} is empty.", "Write what readers agree to.")
    return found
