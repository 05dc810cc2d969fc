"""The parser's class, and the options that several commands share. Loads nothing but argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from USMRISynthesisLib.errors import Failed, Refused

Outcome = tuple[str, dict[str, Any]]
Run = Callable[[argparse.Namespace], Outcome]
PLANES = "along which slices: axial, coronal, sagittal, or all for the three combined (all, if the model supports it)"
OUTPUT = "where to write (.nrrd, .nii, .nii.gz, .mha)"
INPUT = "ultrasound: NRRD, NIfTI, MetaImage, DICOM (file, folder, DICOMDIR), or a picture"
ALL = "all"


class Shown(Exception):
    """Help or version was requested; carries the text."""


class Parser(argparse.ArgumentParser):
    """argparse that raises what it would print, so that it can be printed as text or as JSON."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raise Refused with the complaint as one sentence."""
        raise Refused("arguments", f"{self.prog}: {message}.", f"See {self.prog} --help.")

    def _print_message(self, message: str, file: Any = None) -> None:
        raise Shown(message.rstrip("\n"))


Commands = argparse._SubParsersAction  # the type has no public name


def add_command(commands: Any, name: str, text: str, run: Run, *, silent: bool = False) -> argparse.ArgumentParser:
    """A command with the options that all have. silent: what libraries print by themselves is dropped."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    add_common(parser, argparse.SUPPRESS)
    parser.set_defaults(run=run, silent=silent)
    return parser


def add_common(parser: argparse.ArgumentParser, default: Any) -> None:
    """The options that stand before or after the command's name."""
    parser.add_argument("--json", action="store_true", default=default, help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", default=default, help="print nothing but errors and warnings")
    parser.add_argument("--verbose", action="store_true", default=default, help="show the log, and details of errors")


def add_hidden(parser: argparse.ArgumentParser, name: str, dest: str, **options: Any) -> None:
    """An option's earlier spelling: it works, and help does not list it."""
    parser.add_argument(name, dest=dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)


def frame_number(text: str) -> int | str:
    """A frame's number, or `ALL`. Raises ValueError."""
    return ALL if text == ALL else int(text)


frame_number.__name__ = "frame number"  # argparse names it in its sentence


def add_input(parser: argparse.ArgumentParser, *, every_frame: bool = False, output: str = OUTPUT) -> None:
    """One image in, one out. every_frame: all frames may be asked for."""
    parser.add_argument("input", metavar="IN", help=INPUT)
    parser.add_argument("output", metavar="OUT", help=output)
    frame = "which time point of a 4D file, frame of a sequence or film, from 0"
    if every_frame:
        parser.add_argument(
            "--frame", type=frame_number, metavar="N", help=f"{frame}; or all, each into a file of its own (OUT-0000)"
        )
    else:
        parser.add_argument("--frame", type=int, metavar="N", help=frame)
    add_dicom(parser)
    parser.add_argument("--pixel-size", type=float, metavar="MM", help="pixel size of a 2D frame")
    parser.add_argument(
        "--voxel-size",
        type=float,
        nargs="+",
        metavar="MM",
        help="voxel size of a volume: one number, or three along i, j and k",
    )


def add_dicom(parser: argparse.ArgumentParser) -> None:
    """Which image of a DICOM study."""
    parser.add_argument("--series", metavar="NUMBER", help="which image of a DICOM study, as the list shows them")
    parser.add_argument(
        "--region", type=int, metavar="N", help="which B-mode image of a DICOM picture that shows several, from 1"
    )


def add_age(parser: argparse.ArgumentParser) -> None:
    """Gestational age."""
    parser.add_argument(
        "--gestational-age",
        type=float,
        metavar="WEEKS",
        help="14 to 42, where it is known: a prior for the head's size",
    )


def add_model(
    parser: argparse.ArgumentParser, default: str = "default", kind: str = "model", *, trust: bool = True
) -> None:
    """Which model, where it runs, and consent to run one that did not come with the product."""
    parser.add_argument("--model", default=default, help=f"name of a {kind}, or its folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, openvino or openvino:GPU")
    if trust:
        add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Consent to run a model that did not come with the product."""
    parser.add_argument(
        "--trust-model",
        action="store_true",
        help="agree to run a model that did not come with the product, which can run code and write files; remembered",
    )


def remember_trust(*models: object) -> None:
    """Remember the user's consent for those of these that are models, by name, folder or file. Raises Failed."""
    from USMRISynthesisLib.models import store

    for model in models:
        if isinstance(model, str) and model:
            try:
                store.trust(model)
            except Failed as error:
                if error.kind != "no-model":  # a new folder, or nothing: whoever needs it says so
                    raise


def add_low_confidence(parser: argparse.ArgumentParser, text: str) -> None:
    """Going on with a head that was not found reliably."""
    parser.add_argument("--unreliable", "--allow-low-confidence", dest="unreliable", action="store_true", help=text)


def add_any_content(parser: argparse.ArgumentParser) -> None:
    """Going on with an image that looks like something else."""
    parser.add_argument(
        "--any-content",
        action="store_true",
        help="go on although a frame shows no fetal brain, or the image has no speckle, as after a strong filter",
    )
