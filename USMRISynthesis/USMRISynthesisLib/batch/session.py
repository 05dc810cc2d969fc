"""One process's hand on a batch's output: claims on cases, its own working folder, its own file of the ledger.

    session = Session(plan)
    if session.take(case) and not session.is_done(case):
        result = ...                          # a worker, given session.request(case)
        line = session.done(case, result)     # or session.failed(case, error)
    session.release(case)
    session.close()

Any number of processes, on any number of machines that share the disk, may have a session on one output at once.
For `in/a/head.nrrd` it writes `out/a/head-mr.nrrd` and its provenance `out/a/head-mr.json`. A case is done when both
are there, were made from this very file by this very model and are still what was written.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from USMRISynthesisLib.batch import ledger
from USMRISynthesisLib.batch.cases import Case
from USMRISynthesisLib.batch.claims import Claims
from USMRISynthesisLib.batch.identity import gone, this_process
from USMRISynthesisLib.batch.ledger import Ledger
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError
from USMRISynthesisLib.io.marks import stem_of
from USMRISynthesisLib.io.provenance import file_sha256, files_sha256, put_in_place, read_sidecar
from USMRISynthesisLib.io.transform import read_transform

# What would befall every other case as well: it ends the batch. A full disk does not: it may have space again.
FATAL = ("consent", "device", "hash", "manifest", "model", "no-model", "task", "torch", "unshared", "version",
         "weights", "worker-start")  # fmt: skip
# What a batch can be given; a remedy that names another option is of no use to it.
OPTIONS = ("--model", "--device", "--planes", "--fresh", "--unreliable", "--allow-low-confidence", "--trust-model",
           "--gestational-age", "--any-content", "--frame", "--retry", "--verbose")  # fmt: skip
_OTHER_REMEDY = "Correct the file, or save it as one 3D volume; or synthesise it alone, with `usmri synthesize`."
_WORK = re.compile(r"([0-9a-f]{12})-(\d+)-(\d*)-[0-9a-f]{8}")
_ABANDONED_S = 48 * 3600.0


@dataclass(frozen=True)
class Plan:
    """What all cases of a batch share; it can be sent to another process.

    Attributes:
        output: folder of the results.
        settings: fields of the worker's request.
        made_by: what a result must say of itself to be kept.
        fresh: make again what is done already.
        trust_model: the user agrees to run a model that did not come with the product.
        run: names this run of the batch.
        figures: whether each result's quality is measured, and a thumbnail drawn.
    """

    output: Path
    settings: Mapping[str, Any]
    made_by: Mapping[str, Any]
    fresh: bool = False
    trust_model: bool = False
    run: str = ""
    figures: bool = True


class Session:
    """Safe for threads, which may not work on the same case."""

    def __init__(self, plan: Plan, *, worker: str = "") -> None:
        """Make the folders that it needs. worker: names this process in the ledger. Raises OSError."""
        me = this_process()
        self.plan = plan
        self._worker = worker or f"{me['host']}:{me['pid']}"
        hidden = plan.output / ledger.FOLDER
        hidden.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(hidden / "work")
        name = f"{me['machine']}-{me['pid']}-{me['start']}-{secrets.token_hex(4)}"
        self.staging = hidden / "work" / name
        self.staging.mkdir(parents=True)
        self._ledger = Ledger(plan.output)
        self._claims = Claims(hidden / "claims")
        self._began: dict[str, float] = {}
        self._known: set[str] | None = None
        self._lock = threading.Lock()

    def take(self, case: Case) -> bool:
        """Claim a case for this process; False where another one works on it. Raises Failed."""
        try:
            if not self._claims.take(case.name):
                return False
        except OSError as error:
            raise unwritable(self.plan.output, error) from error
        self._began[case.name] = time.monotonic()
        return True

    def release(self, case: Case) -> None:
        """Give the claim on a case back."""
        self._began.pop(case.name, None)
        self._claims.release(case.name)

    def is_done(self, case: Case) -> bool:
        """Whether the result is there, made by this model from this file. Reads and hashes both files."""
        content = {} if self.plan.fresh else read_sidecar(case.target)
        try:
            fed = content["input"]
            made_by = {
                "version": content["software"]["version"],
                "model_sha256": content["model"]["sha256"],
                "planes": content["planes"],
                "gestational_age": content.get("alignment", {}).get("gestational_age_weeks"),
            }
            return (
                made_by == {**self.plan.made_by, "gestational_age": self._age(case)}
                and fed.get("frame") == case.frame
                and fed.get("transform_sha256") == _sha256_of(case.transform)
                and fed["file_sha256"] == files_sha256(case.files)
                and content["output"]["file_sha256"] == file_sha256(case.target)
            )
        except (OSError, KeyError, TypeError):
            return False

    def request(self, case: Case) -> dict[str, Any]:
        """The fields of the worker's request for a case. Raises Refused where it, or its transform, cannot be read."""
        if case.problem is not None:
            raise case.problem
        matrix = None if case.transform is None else read_transform(case.transform).ravel().tolist()
        return {
            "op": "synthesize",
            "input": str(case.source),
            "series": case.series,
            "frame": case.frame,
            "output": str(self.staged(case)),
            "compress": True,
            "transform": matrix,
            "trust_model": self.plan.trust_model,
            **self.plan.settings,
            "gestational_age": self._age(case),
        }

    def done(self, case: Case, result: Mapping[str, Any], figures: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Take what the worker's `done` event holds: the image and its sidecar get their place. The ledger's line.

        figures: "quality" and "thumbnail" of the line.
        """
        provenance = dict(result["provenance"])
        fed = {"frame": case.frame, "transform_sha256": _sha256_of(case.transform)}
        provenance["input"] = {
            **provenance.get("input", {}),
            **{key: one for key, one in fed.items() if one is not None},
        }
        if not self._claims.holds(case.name):  # this process was taken for dead
            return self._line(case, ledger.SKIPPED, kind="held", message="Another process took this case over.")
        try:
            try:
                case.target.parent.mkdir(parents=True, exist_ok=True)
                put_in_place(self.staged(case), {**provenance, **case.extra}, case.target, source=case.files)
            except OSError as error:
                raise unwritable(case.target.parent, error) from error
        except USMRIError as error:
            return self.failed(case, error)
        model = provenance.get("model", {})
        found = {"score": result.get("score"), "trusted": bool(result.get("trusted", True))}
        return self._line(
            case,
            ledger.DONE,
            output=case.target.relative_to(self.plan.output).as_posix(),
            models={key: model[key] for key in ("name", "version", "sha256") if key in model},
            warnings=list(provenance.get("warnings", [])),
            **{"quality": found, **(figures or {})},
        )

    def failed(self, case: Case, error: USMRIError) -> dict[str, Any]:
        """Note why a case came to nothing; the ledger's line. A case that was cancelled gets none in the file."""
        self.staged(case).unlink(missing_ok=True)
        state = ledger.REFUSED if isinstance(error, Refused) else ledger.FAILED
        return self._line(
            case, state, write=not isinstance(error, Cancelled), kind=error.kind, message=error.message,
            remedy=remedy_of(error)
        )  # fmt: skip

    def keep(self, case: Case) -> dict[str, Any]:
        """Leave a result that is there already as it is. The ledger gets a line only where it did not know of it."""
        with self._lock:
            if self._known is None:
                self._known = {row["name"] for row in ledger.fold(self.plan.output) if row["state"] == ledger.DONE}
            known = case.name in self._known
        output = case.target.relative_to(self.plan.output).as_posix()
        return self._line(case, ledger.SKIPPED, write=not known, kind="kept", message="Its result was there already.",
                          output=output)  # fmt: skip

    def close(self) -> None:
        """The end, however it came: nothing half-written stays."""
        self._ledger.close()
        self._claims.close()
        shutil.rmtree(self.staging, ignore_errors=True)

    def staged(self, case: Case) -> Path:
        """Where a case's image is written before it gets its name; its ending is the target's."""
        key = hashlib.sha256(case.name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self.staging / f"{key}{case.target.name[len(stem_of(case.target)) :]}"

    def _age(self, case: Case) -> float | None:
        own = case.gestational_age
        age: float | None = own if own is not None else self.plan.settings.get("gestational_age")
        return age

    def _line(self, case: Case, state: str, *, write: bool = True, **fields: Any) -> dict[str, Any]:
        began = self._began.get(case.name)
        if began is not None and state != ledger.SKIPPED:
            fields["seconds"] = round(time.monotonic() - began, 2)
        own = {"frame": case.frame, "series": case.series, "gestational_age": self._age(case),
               "transform": None if case.transform is None else case.transform.name}  # fmt: skip
        settings = {
            **self.plan.settings,
            **self.plan.made_by,
            **{key: one for key, one in own.items() if one is not None},
        }
        line = {"name": case.name, "input": case.name.partition("#")[0] if case.frame is not None else case.name,
                "state": state, "worker": self._worker, "settings": settings, **fields}  # fmt: skip
        if write:
            self._ledger.append(line)
        return line


def unwritable(folder: Path, error: OSError) -> Failed:
    """A folder for results takes none."""
    return Failed(
        "write",
        f"The folder {folder.name} cannot be written: {error.strerror or 'it could not be saved'}.",
        "Check free space and permissions of the folder.",
    )


def remedy_of(error: USMRIError) -> str:
    """The error's remedy, or one that a batch has, where it names an option of another command."""
    named = re.findall(r"--[a-z][a-z-]+", error.remedy)
    return error.remedy if all(option in OPTIONS for option in named) else _OTHER_REMEDY


def _sha256_of(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _remove_abandoned(folder: Path) -> None:
    """Remove working folders of processes that have ended; of another machine, those untouched for two days."""
    for one in folder.glob("*-*"):
        named = _WORK.fullmatch(one.name)
        if named is None or one.is_symlink() or not one.is_dir():
            continue
        ended = gone({"machine": named[1], "pid": int(named[2]), "start": named[3]})
        try:
            if ended or (ended is None and time.time() - one.stat().st_mtime > _ABANDONED_S):
                shutil.rmtree(one, ignore_errors=True)
        except OSError:
            continue
