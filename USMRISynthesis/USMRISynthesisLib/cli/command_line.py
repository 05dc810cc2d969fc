"""`usmri`: the command line. Exit 0 done, 1 failed or cancelled, 2 refused input (or a wrong command line).

What went wrong is one sentence on stderr, with the remedy; `--verbose` adds the details. `--json` prints one
JSON object on stdout, for an error too. argparse, because `usmri` must also run under PythonSlicer, where
nothing but the standard library, numpy, scipy, SimpleITK and torch may be expected.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from USMRISynthesisLib import __version__
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError
from USMRISynthesisLib.io.synthetic import SYNTHETIC

DONE, FAILED, REFUSED = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    """argparse with its complaint as one sentence."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}. See {self.prog} --help.\n")
        raise SystemExit(REFUSED)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    common.add_argument("--quiet", action="store_true", help="print nothing but errors and warnings")
    common.add_argument("--verbose", action="store_true", help="show the log, and details of errors")

    parser = _Parser(prog="usmri", description=f"MR-like images from fetal head ultrasound. {SYNTHETIC}.")
    parser.add_argument("--version", action="version", version=f"usmri {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    def add_input(command: argparse.ArgumentParser) -> None:
        command.add_argument("input", metavar="IN", help="ultrasound: NRRD, NIfTI, MetaImage, or a picture")
        command.add_argument("output", metavar="OUT", help="where to write (.nrrd, .nii, .nii.gz, .mha)")
        command.add_argument("--frame", type=int, metavar="N", help="which time point of a 4D file, from 0")
        command.add_argument("--pixel-size", type=float, metavar="MM", help="pixel size of a 2D frame")
        command.add_argument(
            "--voxel-size",
            type=float,
            nargs="+",
            metavar="MM",
            help="voxel size of a volume: one number, or three along i, j and k",
        )

    def add_trust(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--trust-model",
            action="store_true",
            help="agree to run a model that did not come with the product, which can run code and write files; "
            "remembered",
        )

    def add_age(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--gestational-age",
            type=float,
            metavar="WEEKS",
            help="14 to 42, where it is known: a prior for the head's size",
        )

    synthesize = add("synthesize", "make an MR-like image on the grid of an ultrasound image")
    add_input(synthesize)
    synthesize.add_argument("--model", default="default", help="name of a model, or its folder")
    synthesize.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    synthesize.add_argument(
        "--planes",
        default="axial",
        help="along which slices: axial, coronal, sagittal, or all for the median of the three",
    )
    synthesize.add_argument(
        "--transform", metavar="FILE", help="ITK transform to canonical space, where it is known; it wins"
    )
    synthesize.add_argument(
        "--support", metavar="FILE", help="write the support map too: how probable it is that the grey is right, 0-1"
    )
    add_trust(synthesize)
    synthesize.add_argument(
        "--allow-low-confidence",
        "--unreliable",
        dest="unreliable",
        action="store_true",
        help="go on although the head was not found reliably",
    )
    add_age(synthesize)

    batch = add("batch", "make an MR-like image of every ultrasound image in a folder; goes on where it stopped")
    batch.add_argument("input", metavar="IN", help="folder of images (NRRD, NIfTI, MetaImage), searched in depth")
    batch.add_argument("output", metavar="OUT", help="folder for the results, batch.json among them")
    batch.add_argument("--model", default="default", help="name of a model, or its folder")
    batch.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    batch.add_argument(
        "--planes",
        default="axial",
        help="along which slices: axial, coronal, sagittal, or all for the median of the three",
    )
    batch.add_argument(
        "--workers", type=int, default=1, metavar="N", help="images at a time (1); no more than there are processors"
    )
    batch.add_argument("--fresh", action="store_true", help="make again what is done already")
    batch.add_argument(
        "--allow-low-confidence",
        "--unreliable",
        dest="unreliable",
        action="store_true",
        help="go on with images in which the head is not found reliably",
    )
    add_trust(batch)
    add_age(batch)

    normalise = add("normalise", "bring an ultrasound image into canonical space")
    add_input(normalise)
    normalise.add_argument(
        "--transform",
        metavar="FILE",
        help="write the transform to canonical space here, for ITK and Slicer (.tfm, .h5)",
    )
    add_age(normalise)

    respace = add("respace", "reduce the slice spacing of an MR volume, an MR-like one too")
    respace.add_argument("input", metavar="IN", help="MR in thick slices: NRRD, NIfTI, MetaImage")
    respace.add_argument("output", metavar="OUT", help="where to write (.nrrd, .nii, .nii.gz, .mha)")
    respace.add_argument("--spacing", type=float, metavar="MM", help="between slices afterwards (the pixel's side)")
    respace.add_argument(
        "--consistency", action="store_true", help="project, so that the result seen through thick slices is the input"
    )
    respace.add_argument("--axis", help="i, j or k: along which the slices are stacked (the largest voxel side)")
    respace.add_argument("--frame", type=int, metavar="N", help="which time point of a 4D file, from 0")
    respace.add_argument("--model", default="spacing", help="name of a slice-spacing model, or its folder")
    respace.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    add_trust(respace)

    info = add("info", "say what is installed: models, device and why, versions")
    info.add_argument("model", nargs="?", metavar="MODEL", help="show this model's manifest")

    simulate = add("simulate", "simulate fetal heads and their ultrasound, with the truth beside it")
    simulate.add_argument("config", metavar="CONFIG", nargs="?", help="JSON: the splits, or the cases one by one")
    simulate.add_argument(
        "output", metavar="OUT", nargs="?", help="folder of the data set; a stopped run goes on there"
    )
    simulate.add_argument(
        "--data", default="../shared/data", metavar="DIR", help="folder of the atlas and of HC18 (../shared/data)"
    )
    simulate.add_argument("--preview", metavar="PNG", help="instead: one head's planes and truth as a picture")
    simulate.add_argument("--seed", type=int, default=0, metavar="N", help="which head the preview shows (0)")
    simulate.add_argument("--hashes", metavar="FILE", help="write the SHA-256 of every case's arrays here, as JSON")
    simulate.add_argument("--check", metavar="FILE", help="fail where a case's SHA-256 is not the one in FILE")
    simulate.add_argument("--workers", type=int, default=2, metavar="N", help="processes (2)")

    train = add("train", "train a generator, on simulated heads or on a lab's own folders")
    train.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="TOML: data, network, objective, schedule (with --us and --mr: configs/lab.toml)",
    )
    train.add_argument("--us", metavar="DIR", help="a lab's own 3D ultrasound volumes; needs --mr")
    train.add_argument("--mr", metavar="DIR", help="a lab's own fetal brain MR volumes (T2), of whichever fetuses")
    train.add_argument("--output", metavar="RUN", help="with --us and --mr: the run's folder (the configuration's)")
    train.add_argument(
        "--prepared", metavar="DIR", help="with --us and --mr: where the volumes are kept in canonical space (RUN/data)"
    )
    again = train.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        dest="resume",
        action="store_true",
        default=True,
        help="go on where the run in the output folder stopped (default)",
    )
    again.add_argument(
        "--fresh",
        dest="resume",
        action="store_false",
        help="begin anew; refused where the output folder already holds a run",
    )
    train.add_argument("--minutes", type=float, metavar="M", help="stop after this long, over all sittings")
    add_trust(train)

    evaluate = add(
        "evaluate", "measure: the synthesis on simulated cases, the head fit on real frames, or the simulator"
    )
    evaluate.add_argument(
        "subject",
        metavar="WHAT",
        choices=("synthesis", "normalisation", "mr-normalisation", "simulator", "spacing"),
        help="synthesis (on cases of `usmri simulate`), normalisation (on HC18 frames), "
        "mr-normalisation (of a lab's MR), simulator (against HC18 frames) or spacing "
        "(on held-out MR)",
    )
    evaluate.add_argument(
        "--cases",
        metavar="DIR|N",
        help="simulated cases (data/sim); for the simulator how many "
        "heads are simulated (30), or the folder of cases to judge instead",
    )
    evaluate.add_argument("--split", default="val", help="which of them (val)")
    evaluate.add_argument(
        "--train",
        metavar="DIR",
        nargs="+",
        default=[],
        help="synthesis: cases whose mean MR is the baseline (train/ beside the split); the "
        "segmenter of tissues learns from these and any further ones",
    )
    evaluate.add_argument("--model", default="default", help="name of a model, or its folder")
    evaluate.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    evaluate.add_argument(
        "--planes",
        default="axial",
        help="synthesis: along axial, coronal or sagittal slices, or the median of all three",
    )
    evaluate.add_argument(
        "--through",
        default="network",
        choices=("network", "product"),
        help="network: at the true pose; product: gate, estimated pose and all (network)",
    )
    evaluate.add_argument("--data", default="../shared/data", metavar="DIR", help="folder of HC18")
    evaluate.add_argument("--limit", type=int, metavar="N", help="that many frames, drawn at random (all)")

    evaluate.add_argument(
        "--picture",
        metavar="PNG",
        help="simulator: write real and simulated frames, shuffled; "
        "synthesis: write 24 real frames and what is made of them",
    )

    evaluate.add_argument(
        "--poses",
        type=int,
        default=4,
        metavar="N",
        help="normalisation: random orientations for each simulated head (4); 0: frames alone",
    )
    evaluate.add_argument(
        "--pictures", metavar="DIR", help="normalisation: draw the six best, middle and worst volumes here"
    )

    evaluate.add_argument(
        "--peer",
        metavar="COMMAND",
        help="spacing: the public peer's command, such as VENV/bin/run-eclare, run side by side",
    )
    evaluate.add_argument(
        "--peer-patches",
        type=int,
        default=4096,
        metavar="N",
        help="spacing: patches the peer trains on for each volume (4096; its own default is 10^6)",
    )
    evaluate.add_argument("--peer-cases", type=int, default=2, metavar="N", help="spacing: cases the peer gets (2)")
    evaluate.add_argument(
        "--alone",
        type=float,
        default=0,
        metavar="MINUTES",
        help="spacing: train ours, too, on each of the peer's cases alone, for so long (0: not)",
    )

    evaluate.add_argument(
        "--quick", action="store_true", help="synthesis: the model's own figures only, no other methods, no real frames"
    )

    evaluate.add_argument(
        "--study", metavar="CONFIG", help="synthesis: put the study's trained methods beside the model"
    )

    add_trust(evaluate)

    study = add("study", "train methods and ablations on the same data, and write their table")
    study.add_argument("config", metavar="CONFIG", help="TOML: what they share, and in what each differs")
    study.add_argument("--split", default="val", help="which simulated cases they are measured on (val)")
    study.add_argument("--steps", type=int, metavar="N", help="so many steps each instead, in a folder of their own")
    study.add_argument("--trained", action="store_true", help="train nothing: measure the methods that are trained")

    export = add("export", "make a model folder from a training checkpoint")
    export.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="or a model folder, whose weights are kept and exported as this version runs them",
    )
    export.add_argument("output", metavar="OUT", help="the model folder to write")
    export.add_argument("--name", help="the model's name (the folder's)")
    export.add_argument(
        "--figures", metavar="FILE", help="what `usmri evaluate synthesis --json` printed, for the card"
    )
    export.add_argument(
        "--averaged-with",
        metavar="FILE",
        help="synthesis: export the mean of these weights and those of an earlier stage",
    )
    export.add_argument("--model-version", default="1", metavar="V", help="the model's version (1)")
    export.add_argument(
        "--plain",
        action="store_true",
        help="of a model folder: leave its TorchScript files as they are, and write the plain weights beside them",
    )
    add_trust(export)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.CRITICAL, stream=sys.stderr, format="%(name)s: %(message)s"
    )
    logging.getLogger("PIL").setLevel(logging.WARNING)  # it tells every chunk of every picture
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see worker/serve.py
    if hasattr(signal, "SIGTERM"):  # end as on Ctrl-C: nothing half-written stays
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from USMRISynthesisLib.cli import (
            infer as commands,
        )
        from USMRISynthesisLib.cli import (
            methods as commands_methods,
        )
        from USMRISynthesisLib.cli import (
            spacing as commands_spacing,
        )
        from USMRISynthesisLib.cli import (
            study as commands_study,
        )

        rooms = (commands, commands_methods, commands_spacing, commands_study)
        work = next(getattr(room, options.command) for room in rooms if hasattr(room, options.command))
        text, result = work(options)
    except USMRIError as error:
        return _report(options, error)
    except ModuleNotFoundError as error:
        return _report(
            options,
            Failed(
                "package",
                f"This command needs the Python package {error.name!r}, which is not installed.",
                "Install the command's packages, in a clone: pip install '.[standalone,export,train]'.",
            ),
        )
    except KeyboardInterrupt:
        return _report(options, Cancelled())
    except BrokenPipeError:  # the reader of our output went away
        return FAILED
    except Exception as error:
        if options.verbose:
            traceback.print_exc()
        return _report(
            options,
            USMRIError(
                "internal",
                f"An unexpected fault stopped it ({type(error).__name__}).",
                "Run it again with --verbose and report what that prints.",
            ),
        )
    if options.json:
        print(json.dumps({"status": "done", **result}))
    elif not options.quiet and text:
        print(text)
    # A batch ends in its own status: some of its cases may have failed, or have been refused.
    return {"failed": FAILED, "refused": REFUSED}.get(result.get("status", ""), DONE)


def _report(options: argparse.Namespace, error: USMRIError) -> int:
    """One sentence on stderr; with --json the same on stdout for a program."""
    status = "refused" if isinstance(error, Refused) else "cancelled" if isinstance(error, Cancelled) else "failed"
    if options.verbose and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    sys.stderr.write(f"{error}\n")
    if options.json:
        content: dict[str, Any] = {
            "status": status,
            "kind": error.kind,
            "message": error.message,
            "remedy": error.remedy,
        }
        print(json.dumps(content))
    return REFUSED if isinstance(error, Refused) else FAILED
