"""`usmri batch`: a cohort of images at once, on this machine, on a Dask cluster or as parts of a job array."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli import options as shared
from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.errors import Refused

if TYPE_CHECKING:
    from USMRISynthesisLib.batch.cases import Case
    from USMRISynthesisLib.batch.folder import Batch


def add_commands(commands: Any) -> None:
    """The command's parser."""
    many = shared.add_command(
        commands,
        "batch",
        "make an MR-like image of every ultrasound image of a cohort; goes on where it stopped",
        batch,
        silent=True,
    )
    many.add_argument(
        "input",
        metavar="IN",
        nargs="+",
        help="folders of images (NRRD, NIfTI, MetaImage, DICOM), searched in depth; BIDS trees; image files; or tables "
        "(.csv, .tsv) with the columns path, and where known subject, session, gestational_age, transform",
    )
    many.add_argument("output", metavar="OUT", help="folder for the results and the ledger")
    shared.add_model(many)
    many.add_argument("--planes", help=shared.PLANES)
    many.add_argument("--fresh", action="store_true", help="make again what is done already")
    many.add_argument(
        "--frame", type=shared.frame_number, metavar="N", help="which frame of films, sequences and 4D files; or all"
    )
    many.add_argument("--bids", action="store_true", help="name the results as BIDS derivatives, in derivatives/usmri")
    shared.add_low_confidence(many, "go on with images in which the head is not found reliably")
    shared.add_any_content(many)
    shared.add_age(many)
    how = many.add_argument_group("how it runs")
    how.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="images at a time (1); on this machine no more than processors and memory allow",
    )
    how.add_argument(
        "--part", type=_part, metavar="I/N", help="the cases of one of N parts, for a job array; I from 1 to N"
    )
    how.add_argument("--dask", metavar="WHERE", help="run on Dask: a scheduler's address, local, or slurm")
    how.add_argument("--dask-config", metavar="FILE", help="options of the cluster that is started, as YAML")
    ledger = many.add_argument_group("what became of it")
    ledger.add_argument("--retry", choices=("failed", "refused", "all"), help="only the cases that ended so before")
    ledger.add_argument(
        "--status", metavar="OUT", action=_Status, help="show what became of every case, and do nothing"
    )
    ledger.add_argument("--csv", metavar="FILE", help="with --status: write the table here as well")
    ledger.add_argument("--report", metavar="FILE", help="write a page of all cases with their pictures (.html)")


class _Status(argparse.Action):
    """`--status OUT` stands without IN and OUT."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        for action in parser._actions:
            if not action.option_strings:
                action.required = False


def _part(text: str) -> tuple[int, int]:
    """(number from 1, count). Raises ValueError."""
    number, _, count = text.partition("/")
    return int(number), int(count)


_part.__name__ = "part"  # argparse names it in its sentence


def batch(options: Namespace) -> Outcome:
    """`usmri batch IN OUT`: every image; goes on where it stopped, and collects what fails."""
    if options.status is not None:
        return status(options)
    if options.csv is not None:
        raise Refused("arguments", "--csv writes the table of --status.", "Give --status OUT with it.")
    from USMRISynthesisLib.batch.folder import Batch
    from USMRISynthesisLib.batch.ledger import fold
    from USMRISynthesisLib.batch.report import check_report, write_report

    report = None if options.report is None else Path(options.report)
    if report is not None:
        check_report(report, output=Path(options.output))
    work = Batch(
        [Path(name) for name in options.input],
        Path(options.output),
        model=options.model,
        device=options.device,
        planes=options.planes,
        fresh=options.fresh,
        allow_low_confidence=options.unreliable,
        any_content=options.any_content,
        gestational_age=options.gestational_age,
        bids=options.bids,
        frame=options.frame,
        part=options.part,
        retry=options.retry,
        trust_model=options.trust_model,
    )
    if options.dask is None:
        from USMRISynthesisLib.batch.runner import run

        run(work, workers=options.workers, progress=console.progress(options), settled=_settled(work, options))
    else:
        _on_dask(work, options)
    if report is not None:
        write_report(fold(Path(options.output)), Path(options.output), report)
    text = f"{work.summary()} usmri batch --status {options.output} has the details."
    return text, {"output": str(options.output), "status_file": str(work.status_file), **work.report()}


def status(options: Namespace) -> Outcome:
    """`usmri batch --status OUT`: the newest state of every case, from the ledgers of all processes."""
    from USMRISynthesisLib.batch import status as table
    from USMRISynthesisLib.batch.ledger import FOLDER, STATUS_FILE, fold
    from USMRISynthesisLib.batch.report import write_report

    output = Path(options.status)
    if not (output / FOLDER).is_dir() and not (output / STATUS_FILE).is_file():
        raise Refused("no-ledger", f"No batch has worked on {output.name}.", "Give the folder of its results.")
    rows = fold(output)
    if options.csv is not None:
        table.write_csv(rows, Path(options.csv))
    if options.report is not None:
        write_report(rows, output, Path(options.report))
    return table.as_text(rows), {"output": str(output), "summary": table.summary(rows), "cases": rows}


def _on_dask(work: Batch, options: Namespace) -> None:
    from USMRISynthesisLib.batch.dask_cluster import read_options
    from USMRISynthesisLib.batch.dask_runner import run_on_dask

    try:
        given = read_options(Path(options.dask_config) if options.dask_config else None)
    except BaseException:
        work.close()
        raise
    run_on_dask(
        work,
        options.dask,
        workers=options.workers,
        options=given,
        progress=console.progress(options),
        settled=_settled(work, options),
        say=console.say if not options.quiet else lambda text: None,
    )


def _settled(work: Batch, options: Namespace) -> Callable[[Case], None]:
    """Says what became of a case."""
    from USMRISynthesisLib.batch.folder import DONE, KEPT

    def settled(case: Case) -> None:
        state = work.states[case.name]
        if state["status"] == KEPT:
            return
        if state["status"] != DONE:
            console.say(f"{state['status']}: {case.name}: {state['message']} {state['remedy']}".rstrip())
        elif not options.quiet:
            doubt = _sentences(state["warnings"])
            console.say(f"done: {case.name} ({state['seconds']:.1f} s){'.' if doubt else ''}{doubt}")

    return settled


def _sentences(warnings: Sequence[str]) -> str:
    return "".join(f" {warning}" for warning in warnings)
