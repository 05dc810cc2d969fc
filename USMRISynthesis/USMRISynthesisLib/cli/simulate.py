"""`usmri simulate`: fetal heads and their ultrasound, with the truth beside it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli.options import Outcome, add_command
from USMRISynthesisLib.cli.pictures import check_picture, picture
from USMRISynthesisLib.errors import Refused


def add_commands(commands: Any) -> None:
    """The command's parser."""
    simulated = add_command(
        commands, "simulate", "simulate fetal heads and their ultrasound, with the truth beside it", simulate
    )
    simulated.add_argument("config", metavar="CONFIG", nargs="?", help="JSON: the splits, or the cases one by one")
    simulated.add_argument(
        "output", metavar="OUT", nargs="?", help="folder of the data set; a stopped run goes on there"
    )
    simulated.add_argument(
        "--data", default="../shared/data", metavar="DIR", help="folder of the atlas and of HC18 (../shared/data)"
    )
    simulated.add_argument("--preview", metavar="PNG", help="instead: one head's planes and truth as a picture")
    simulated.add_argument("--seed", type=int, default=0, metavar="N", help="which head the preview shows (0)")
    simulated.add_argument("--hashes", metavar="FILE", help="write the SHA-256 of every case's arrays here, as JSON")
    simulated.add_argument("--check", metavar="FILE", help="fail where a case's SHA-256 is not the one in FILE")
    simulated.add_argument("--workers", type=int, default=2, metavar="N", help="processes (2)")


def simulate(options: Namespace) -> Outcome:
    """`usmri simulate CONFIG OUT`: a simulated data set; with `--preview PNG` a picture of one head instead."""
    data = Path(options.data)
    if not data.is_dir():
        raise Refused("data", f"There is no data folder {data.name}.", "Give the atlas's folder with --data.")
    if options.preview:
        from USMRISynthesisLib.evaluation.pictures import simulated as simulated_pictures

        target = check_picture(Path(options.preview))
        if options.seed < 0:
            raise Refused("seed", f"The seed {options.seed} is negative.", "Give 0 or more.")
        with picture(target) as name:
            shown = simulated_pictures.preview(data, options.seed, name)
        return f"Wrote {target}: {shown}.", {"picture": str(target), "shows": shown}
    if not options.config or not options.output:
        raise Refused(
            "arguments",
            "A data set needs a configuration and a folder.",
            "Give CONFIG and OUT, or --preview PNG for a picture alone.",
        )
    from USMRISynthesisLib.simulation import dataset

    config = Path(options.config)
    if not config.is_file():
        raise Refused("bad-configuration", f"There is no configuration {config.name}.", "Check the path.")
    manifest = dataset.simulate(
        config, Path(options.output), data=data, workers=options.workers, progress=console.progress(options)
    )
    if options.hashes:
        dataset.write_hashes(manifest, Path(options.hashes))
    if options.check:
        dataset.check_hashes(manifest, Path(options.check))
    return f"Wrote {manifest}.", {"manifest": str(manifest)}
