"""`usmri evaluate`: figures, as text and as values."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli.options import PLANES, Outcome, add_command, add_hidden, add_model, remember_trust
from USMRISynthesisLib.cli.pictures import check_picture, picture, pictures
from USMRISynthesisLib.errors import Refused

_POSES = {"network": "true", "product": "estimated"}  # how --pose was once spelt


def add_commands(commands: Any) -> None:
    """The command's parser."""
    measured = add_command(
        commands,
        "evaluate",
        "measure: the synthesis on simulated cases, the head fit on real frames, or the simulator",
        evaluate,
    )
    measured.add_argument(
        "subject",
        metavar="WHAT",
        choices=(
            "real",
            "content",
            "normal",
            "synthesis",
            "normalisation",
            "mr-normalisation",
            "simulator",
            "spacing",
            "biometry",
            "expected-error",
            "registration",
        ),
        help="real (on real ultrasound), content (what real frames show), biometry (on HC18 frames), "
        "expected-error (of each slice, on simulated cases), "
        "normal (on heads simulated from normal MR averages, through the whole "
        "product), synthesis (on cases of `usmri simulate`), normalisation (on HC18 frames), "
        "mr-normalisation (of a lab's MR), simulator (against HC18 frames), spacing "
        "(on held-out MR) or registration (of ultrasound with MR, with and without the synthesis)",
    )
    measured.add_argument(
        "--cases",
        metavar="DIR|N",
        help="simulated cases (data/sim); for the simulator how many "
        "heads are simulated (30), or the folder of cases to measure instead",
    )
    measured.add_argument("--split", default="val", help="which of them (val)")
    measured.add_argument(
        "--train",
        metavar="DIR",
        nargs="+",
        default=[],
        help="synthesis: cases whose mean MR is the baseline (train/ beside the split); the "
        "segmenter of tissues learns from these and any further ones",
    )
    add_model(measured)
    measured.add_argument("--planes", help=f"synthesis: {PLANES}")
    measured.add_argument(
        "--pose",
        default="true",
        choices=("true", "estimated"),
        help="true: the networks alone, at the true pose; estimated: gate, alignment and all (true)",
    )
    add_hidden(measured, "--through", "pose", type=lambda text: _POSES.get(text, text), choices=("true", "estimated"))
    measured.add_argument("--data", default="../shared/data", metavar="DIR", help="folder that holds hc18/")
    measured.add_argument(
        "--calibration", metavar="JSON", help="expected-error: write what was fitted on --train (expected_error.json)"
    )
    measured.add_argument("--limit", type=int, metavar="N", help="that many frames, drawn at random (all)")

    measured.add_argument(
        "--picture",
        metavar="PNG",
        help="registration: draw the errors; simulator: write real and simulated frames, shuffled; "
        "synthesis: write 24 real frames and what is made of them",
    )

    measured.add_argument(
        "--poses",
        type=int,
        default=4,
        metavar="N",
        help="normalisation: random orientations for each simulated head (4); 0: frames alone",
    )
    measured.add_argument(
        "--pictures",
        metavar="DIR",
        help="normalisation: draw the six best, middle and worst volumes here; real: every volume and 24 frames",
    )
    measured.add_argument(
        "--simulated",
        metavar="DIR",
        help="real: cases of `usmri simulate` to compare real insides with (some are made)",
    )
    measured.add_argument(
        "--config",
        default="configs/normal-heads.json",
        metavar="FILE",
        help="normal, registration: which heads are simulated",
    )
    measured.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="DIR",
        help="normal: folders of models (default/, alignment/ and so on) to run on the same heads, side by side",
    )

    measured.add_argument(
        "--baseline-command",
        metavar="COMMAND",
        help="spacing: the command of a public baseline, such as VENV/bin/run-eclare, run side by side",
    )
    measured.add_argument(
        "--baseline-patches",
        type=int,
        default=4096,
        metavar="N",
        help="spacing: patches the baseline trains on for each volume (4096; its own default is 10^6)",
    )
    measured.add_argument(
        "--baseline-cases", type=int, default=2, metavar="N", help="spacing: cases the baseline gets (2)"
    )
    measured.add_argument(
        "--single-stack-minutes",
        type=float,
        default=0,
        metavar="MINUTES",
        help="spacing: train ours, too, on each of the baseline's cases alone, for so long (0: not)",
    )
    add_hidden(measured, "--peer", "baseline_command")
    add_hidden(measured, "--peer-patches", "baseline_patches", type=int)
    add_hidden(measured, "--peer-cases", "baseline_cases", type=int)
    add_hidden(measured, "--alone", "single_stack_minutes", type=float)

    measured.add_argument(
        "--quick",
        action="store_true",
        help="synthesis: the model's own figures only, no other methods, no real frames; real: fewer images; "
        "registration: one start, no B-spline with elastix, no real volumes",
    )

    measured.add_argument(
        "--folder", metavar="DIR", help="registration: keep each head's result here, so that a stopped run goes on"
    )
    measured.add_argument(
        "--starts", type=int, default=3, metavar="N", help="registration: starts for each head and MR (3)"
    )

    measured.add_argument(
        "--record", metavar="FILE", help="also write the figures with this command, for docs/results (JSON)"
    )
    measured.add_argument(
        "--study", metavar="CONFIG", help="synthesis: put the study's trained methods beside the model"
    )


def evaluate(options: Namespace) -> Outcome:
    """`usmri evaluate SUBJECT`: figures, as text and as values, and as a record where one is wanted."""
    from USMRISynthesisLib.cli.record import check_record, write_record

    if options.record:
        check_record(Path(options.record))
    if options.trust_model:
        remember_trust(options.model)
    text, result = _evaluate(options)
    if options.record:
        write_record(Path(options.record), options, options.arguments, result)
    return text, result


def _evaluate(options: Namespace) -> Outcome:
    if options.subject in ("real", "normal"):
        from USMRISynthesisLib.cli import evaluate_real

        return (evaluate_real.evaluate_real if options.subject == "real" else evaluate_real.evaluate_normal)(options)
    if options.subject in ("biometry", "expected-error"):
        from USMRISynthesisLib.cli import evaluate_measures

        return evaluate_measures.evaluate(options)
    if options.subject == "registration":
        from USMRISynthesisLib.cli.evaluate_registration import evaluate_registration

        return evaluate_registration(options)
    if options.subject == "content":
        from USMRISynthesisLib.evaluation.content import evaluate as content

        figures = content.evaluate(
            Path(options.data),
            options.split,
            model="content" if options.model == "default" else options.model,
            limit=options.limit,
            progress=console.progress(options),
        )
        return content.table(figures), figures
    if options.subject == "mr-normalisation":
        from USMRISynthesisLib.evaluation.alignment import mr as mr_normalisation

        figures = mr_normalisation.evaluate(
            Path(options.data), Path(options.cases or "data/sim"), progress=console.progress(options)
        )
        return mr_normalisation.table(figures), figures
    if options.subject == "simulator":
        return _evaluate_simulator(options)
    if options.subject == "spacing":
        return _evaluate_spacing(options)
    if options.subject == "normalisation":
        from USMRISynthesisLib.evaluation.alignment.frames import evaluate_frames

        if _has_alignment(options):
            from USMRISynthesisLib.evaluation.alignment import evaluate as normalisation

            model = "alignment" if options.model == "default" else options.model
            with pictures(options.pictures) as folder:
                figures = normalisation.evaluate(
                    Path(options.cases or "data/sim"),
                    options.split,
                    Path(options.data),
                    model,
                    poses=options.poses,
                    limit=options.limit,
                    pictures=folder,
                    progress=console.progress(options),
                )
            return normalisation.table(figures), figures
        frames = Path(options.data) / "hc18"
        if not (frames / "index.csv").is_file():
            raise Refused("data", "There are no HC18 frames.", "Give the folder that holds hc18/ with --data.")
        values = evaluate_frames(Path(options.data), limit=options.limit)
        lines = ["head ellipse on real HC18 frames"]
        lines += [f"{key:36s} {value:8.3f}" for key, value in values.items() if isinstance(value, float)]
        return "\n".join(lines), values
    from USMRISynthesisLib.cli.evaluate_synthesis import evaluate_synthesis

    return evaluate_synthesis(options)


def _evaluate_simulator(options: Namespace) -> Outcome:
    """Figures of the simulator, of so many new heads or of a folder of cases, and the picture that mixes its frames."""
    from USMRISynthesisLib.evaluation.pictures import simulated as simulated_pictures
    from USMRISynthesisLib.evaluation.simulator import evaluate as simulator
    from USMRISynthesisLib.evaluation.simulator import frames

    data, cases = Path(options.data), options.cases or str(simulator.HEADS)
    target = check_picture(Path(options.picture)) if options.picture else None
    if not cases.isdecimal() and not Path(cases).is_dir():
        raise Refused("cases", f"{cases!r} is neither a number of heads nor a folder.", "Give --cases one of them.")
    real, progress = frames.real_frames(data), console.progress(options)
    if cases.isdecimal():
        simulated, measured = simulator.simulate(data, int(cases), progress=progress)
    else:
        simulated, measured = frames.stored_frames(Path(cases)), []
    result: dict[str, Any] = {}
    if target:
        with picture(target) as name:
            result["order"] = simulated_pictures.mixed(real, simulated, name)
    result |= simulator.evaluate(data, real, simulated, measured, progress=progress)
    text = simulator.table(result)
    if target:
        text += f"\n{target}, row by row: " + ", ".join(f"{n} {kind}" for n, kind in enumerate(result["order"], 1))
    return text, result


def _evaluate_spacing(options: Namespace) -> Outcome:
    """`usmri evaluate spacing`: methods side by side on held-out MR, then on the real stacks."""
    from USMRISynthesisLib.evaluation.spacing import evaluate as spacing
    from USMRISynthesisLib.evaluation.spacing.peer import Peer
    from USMRISynthesisLib.training.spacing.single_stack import NAME, train_and_super_resolve

    data = Path(options.data)
    if not data.is_dir():
        raise Refused("data", f"There is no data folder {data.name}.", "Give the atlas's folder with --data.")
    if options.baseline_cases < 1 or options.single_stack_minutes < 0:
        raise Refused(
            "peer",
            "What trains on every case needs at least one case, and minutes of 0 or more.",
            "Correct --baseline-cases or --single-stack-minutes.",
        )
    rivals: dict[str, spacing.Rival] = {}
    if options.baseline_command:
        peer = Peer(options.baseline_command.split(), options.baseline_patches)
        rivals[peer.name] = peer
    if options.single_stack_minutes:
        rivals[NAME] = lambda thick, factor, mm: train_and_super_resolve(
            thick, factor, mm, options.single_stack_minutes
        )
    model = "spacing" if options.model == "default" else options.model
    with pictures(options.pictures) as folder:
        result = spacing.evaluate(
            data,
            options.split,
            model=model,
            device=options.device,
            rivals=rivals,
            rival_cases=options.baseline_cases,
            limit=options.limit,
            pictures=folder,
            progress=console.progress(options),
        )
    return spacing.table(result), result


def _has_alignment(options: Namespace) -> bool:
    """Whether there is an alignment model to measure, and cases to measure it on."""
    from USMRISynthesisLib.models.store import installed_models

    if options.model != "default":
        return True
    named = {folder.name for folder in installed_models()}
    return "alignment" in named and Path(options.cases or "data/sim").is_dir()
