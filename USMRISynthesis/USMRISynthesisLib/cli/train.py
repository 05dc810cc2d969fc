"""`usmri train` and `usmri study`: networks, one or several side by side."""

from __future__ import annotations

import dataclasses
import datetime
from argparse import Namespace
from typing import Any

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli.options import Outcome, add_command, add_hidden, add_trust, remember_trust
from USMRISynthesisLib.errors import Refused


def add_commands(commands: Any) -> None:
    """The commands' parsers."""
    trained = add_command(commands, "train", "train a generator, on simulated heads or on a lab's own folders", train)
    trained.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="TOML: data, network, objective, schedule (with --us and --mr: configs/lab.toml)",
    )
    trained.add_argument("--us", metavar="DIR", help="a lab's own 3D ultrasound volumes; needs --mr")
    trained.add_argument("--mr", metavar="DIR", help="a lab's own fetal brain MR volumes (T2), of whichever fetuses")
    trained.add_argument("--output", metavar="RUN", help="with --us and --mr: the run's folder (the configuration's)")
    trained.add_argument(
        "--prepared", metavar="DIR", help="with --us and --mr: where the volumes are kept in canonical space (RUN/data)"
    )
    again = trained.add_mutually_exclusive_group()
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
    trained.add_argument("--minutes", type=float, metavar="M", help="stop after this long, over all sittings")
    add_trust(trained)

    compared = add_command(
        commands, "study", "train methods and ablations on the same data, and write their table", study
    )
    compared.add_argument("config", metavar="CONFIG", help="TOML: what they share, and in what each differs")
    compared.add_argument("--split", default="val", help="which simulated cases they are measured on (val)")
    compared.add_argument("--steps", type=int, metavar="N", help="so many steps each instead, in a folder of their own")
    compared.add_argument(
        "--skip-training", action="store_true", help="train nothing: measure the methods that are trained"
    )
    add_hidden(compared, "--trained", "skip_training", action="store_true")


def train(options: Namespace) -> Outcome:
    """`usmri train CONFIG` or `usmri train --us DIR --mr DIR`: train, or go on. It is reported on stderr."""
    from USMRISynthesisLib.training.common.config import read_table
    from USMRISynthesisLib.training.common.distributed import processes
    from USMRISynthesisLib.training.run import train as run_training

    def report(text: str) -> None:
        if not options.quiet:
            console.say(text)

    if not processes().is_first:  # torchrun started several: one speaks
        options.quiet, options.json = True, False
    if options.us or options.mr:
        from USMRISynthesisLib.training.lab.run import train_on_folders

        checkpoint, ready = train_on_folders(
            options.us,
            options.mr,
            config=options.config,
            output=options.output,
            prepared=options.prepared,
            minutes=options.minutes,
            resume=options.resume,
            report=report,
        )
        return f"Wrote {checkpoint}.", {
            "checkpoint": str(checkpoint),
            "used": ready.used,
            "left_out": {kind: dict(why) for kind, why in ready.left_out.items()},
        }
    if not options.config or options.output or options.prepared:
        raise Refused(
            "arguments",
            "Training needs a configuration, or a lab's folders.",
            "Give CONFIG, or --us DIR and --mr DIR (--output and --prepared belong to these).",
        )
    if options.trust_model:
        table = read_table(options.config)
        remember_trust(table.get("initial"), table.get("model"))
    checkpoint = run_training(options.config, resume=options.resume, minutes=options.minutes, report=report)
    return f"Wrote {checkpoint}.", {"checkpoint": str(checkpoint)}


def study(options: Namespace) -> Outcome:
    """`usmri study CONFIG`: train every method that is not trained yet, measure all, write table and picture."""
    from USMRISynthesisLib.training.study import study as studies
    from USMRISynthesisLib.training.study import table as study_table

    def report(line: str) -> None:
        if not options.quiet:
            console.say(line)

    plan = studies.read_study(options.config)
    if options.steps:
        plan = studies.shortened(plan, options.steps)
    if options.skip_training:
        plan = dataclasses.replace(plan, methods=studies.trained(plan))
    else:
        studies.run(plan, report=report)
    figures = study_table.measured(plan, options.split, progress=console.progress(options))
    notes = {
        "printed by": f"usmri study {options.config} --split {options.split}"
        + " --skip-training" * options.skip_training,
        "date": datetime.date.today().isoformat(),
        "data": f"simulated, {plan.methods[0].config.data.folder}, split {options.split}",
        "seeds": sorted({method.config.seed for method in plan.methods}),
    }
    table, picture = plan.output / "table.md", plan.output / "pictures.png"
    table.write_text(study_table.markdown(plan, figures, notes), encoding="utf-8")
    study_table.draw(plan, options.split, picture)
    return table.read_text(encoding="utf-8"), {"methods": figures, "table": str(table), "picture": str(picture)}
