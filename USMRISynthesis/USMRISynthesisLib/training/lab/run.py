"""`usmri train --us DIR --mr DIR`: a lab's own folders, prepared and trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.training.common.config import read_table
from USMRISynthesisLib.training.common.distributed import processes
from USMRISynthesisLib.training.lab.folders import LEDGER, Prepared, prepare
from USMRISynthesisLib.training.run import train
from USMRISynthesisLib.training.synthesis.config import TrainingConfig

CONFIGURATION = Path("configs") / "lab.toml"


def train_on_folders(
    us: str | Path | None,
    mr: str | Path | None,
    *,
    config: str | Path | None = None,
    output: str | Path | None = None,
    prepared: str | Path | None = None,
    minutes: float | None = None,
    resume: bool = True,
    report: Callable[[str], None] = print,
) -> tuple[Path, Prepared]:
    """Prepare the folders in `prepared` (OUTPUT/data) and train as the configuration says; the checkpoint's path.

    config: configs/lab.toml where None; its output and its data.scans and data.mr give way to what is given here.

    Raises Refused (folders, configuration), and what `train` does.
    """
    if not us or not mr:
        missing = "--mr" if us else "--us"
        raise Refused(
            "arguments",
            f"Training on folders of one's own needs both kinds: {missing} is missing.",
            "Give --us DIR and --mr DIR.",
        )
    table = read_table(config or _shipped())
    if table.get("task", "synthesis") != "synthesis":
        raise Refused(
            "configuration",
            "The configuration is for another network than the synthesis.",
            f"Give one such as {CONFIGURATION.as_posix()}.",
        )
    if output:
        table["output"] = str(output)
    folder = Path(prepared) if prepared else Path(str(table.get("output", "runs/lab"))) / "data"
    table["data"] = {**table.get("data", {}), "scans": str(folder / "us"), "mr": str(folder / "mr")}
    settings = TrainingConfig.from_json(table)  # a mistake there ends it before the long work
    together = processes()
    ready = prepare(us, mr, folder, report=report) if together.is_first else None
    ready = together.agreed(ready)
    for kind, word in (("us", "ultrasound"), ("mr", "MR")):
        report(f"{ready.used[kind]} {word} volumes are ready, {ready.left_out[kind].total()} are left out")
        for reason, count in ready.left_out[kind].most_common():
            report(f"  {count}: {reason}")
    report(f"{folder / LEDGER} lists every file and how it was used")
    return train(settings, resume=resume, minutes=minutes, report=report), ready


def _shipped() -> Path:
    """configs/lab.toml here, or in the repository that this file is in."""
    for folder in (Path(), Path(__file__).resolve().parents[4]):
        if (folder / CONFIGURATION).is_file():
            return folder / CONFIGURATION
    raise Refused("configuration", f"{CONFIGURATION.as_posix()} is not there.", "Give a configuration's path.")
