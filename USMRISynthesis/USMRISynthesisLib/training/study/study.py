"""The study: every method of a TOML file trained on the same data for the same number of steps, resumably.

[base]               a training configuration without `output`
[methods.NAME]       title, and the keys in which this method differs from the base

usmri study configs/study.toml
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.common.config import read_table
from USMRISynthesisLib.training.run import train
from USMRISynthesisLib.training.synthesis.config import TrainingConfig


@dataclass(frozen=True)
class Method:
    """One row of the study: its name, what it is in words, and the run that makes it."""

    name: str
    title: str
    config: TrainingConfig


@dataclass(frozen=True)
class Study:
    """output: the study's folder, with one run a method and seed; methods in the file's order."""

    output: Path
    methods: tuple[Method, ...]


def read_study(path: str | Path) -> Study:
    """Read the TOML file. Raises Refused that names the key and the reason."""
    table = read_table(path)
    for key in table:
        if key not in ("output", "seeds", "base", "methods"):
            raise Refused(
                "configuration", f"Configuration: {key} is not known.", "Known here: output, seeds, base, methods."
            )
    for key, kind in (("output", str), ("base", dict), ("methods", dict)):
        if not isinstance(table.get(key), kind):
            raise Refused("configuration", f"Configuration: {key} is missing.", "Add it.")
    output, methods = Path(table["output"]), []
    for name, changes in table["methods"].items():
        if not isinstance(changes, dict) or not isinstance(changes.get("title"), str):
            raise Refused("configuration", f"Configuration: methods.{name}.title is missing.", "Add a title.")
        differing = {key: value for key, value in changes.items() if key != "title"}
        for seed in table.get("seeds", [0]):
            merged = _merged(table["base"], differing) | {"output": str(output / f"{name}-{seed}"), "seed": seed}
            try:
                methods.append(Method(name, changes["title"], TrainingConfig.from_json(merged)))
            except Refused as error:
                raise Refused(error.kind, f"Method {name}: {error.message}", error.remedy) from error
    if not methods:
        raise Refused("configuration", "Configuration: methods holds none.", "Add a [methods.NAME] table.")
    return Study(output, tuple(methods))


def run(study: Study, *, cancel: Callable[[], bool] | None = None, report: Callable[[str], None] = print) -> list[Path]:
    """Train every method that is not trained yet; returns their last checkpoints, in the study's order.

    The last ones, not the best: to choose by held-out residual NCC would favour methods with pairs.

    A stopped study goes on in the middle of the method it was stopped in. Raises what `train` raises.
    """
    done = []
    for method in study.methods:
        saved = Path(method.config.output) / checkpoint.CHECKPOINT
        if _done(method):
            report(f"{method.name}, seed {method.config.seed}: done before")
        else:
            report(f"{method.name}, seed {method.config.seed}: {method.title}")
            train(method.config, cancel=cancel, report=report)
        done.append(saved)
    return done


def trained(study: Study) -> tuple[Method, ...]:
    """The methods that are trained to their end. Raises Refused where none is."""
    done = tuple(method for method in study.methods if _done(method))
    if not done:
        raise Refused("study", f"No method of the study in {study.output} is trained.", "Run `usmri study` first.")
    return done


def _done(method: Method) -> bool:
    saved = Path(method.config.output) / checkpoint.CHECKPOINT
    return saved.is_file() and int(checkpoint.load(saved)["step"]) >= method.config.steps


def shortened(study: Study, steps: int) -> Study:
    """The same study with so many steps a method, in a folder of its own: a trial before the long run."""
    output = study.output.with_name(f"{study.output.name}-{steps}")
    methods = (
        replace(m, config=replace(m.config, steps=steps, output=str(output / Path(m.config.output).name)))
        for m in study.methods
    )
    return Study(output, tuple(methods))


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, table by table."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        kept = result.get(key)
        result[key] = _merged(kept, value) if isinstance(kept, dict) and isinstance(value, dict) else value
    return result
