"""A folder of images, one synthesis each: which cases there are, which are done, and what became of the others.

This is the ledger; it starts nothing itself. `runner.py` (command line) and the Slicer panel feed it:

    batch = Batch(Path("in"), Path("out"))
    for case in batch.waiting():
        if batch.is_done(case):
            batch.keep(case)
            continue
        result = ...                     # a worker, given batch.request(case)
        batch.done(case, result)         # or batch.failed(case, error)
    batch.close()

For `in/a/head.nrrd` it writes `out/a/head-mr.nrrd` and its provenance `out/a/head-mr.json`. A case is done when both
are there, were made from this very file by this very model and are still what was written: so a batch that was stopped,
in whatever way, goes on where it was. `out/batch.json` has the state of every case, for people and programs to read.

One batch at a time works on an output folder (`lock.py`), in a folder of its own there, and no file is replaced that no
batch made: `out` is searched for such files before anything is done.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from USMRISynthesisLib import __version__
from USMRISynthesisLib.batch.cases import Case, check_targets, find_cases, holds_pictures
from USMRISynthesisLib.batch.lock import FolderLock
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError
from USMRISynthesisLib.geometry.planes import chosen_planes
from USMRISynthesisLib.io.marks import is_ledger
from USMRISynthesisLib.io.outputs import place_all
from USMRISynthesisLib.io.provenance import file_sha256, files_sha256, put_in_place, read_sidecar
from USMRISynthesisLib.io.strict_json import dumps
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import PICTURE_FORMATS, VOLUME_FORMATS
from USMRISynthesisLib.models import store

STATUS_FILE = "batch.json"
WAITING, RUNNING, DONE, KEPT, REFUSED, FAILED, CANCELLED = (
    "waiting",
    "running",
    "done",
    "kept",
    "refused",
    "failed",
    "cancelled",
)
# What would befall every other case as well: it ends the batch.
FATAL = (
    "consent",
    "device",
    "folder",
    "hash",
    "manifest",
    "model",
    "no-model",
    "task",
    "torch",
    "weights",
    "write",
    "worker-start",
)


# What a batch can be given; a remedy that names another option is of no use to it.
_OPTIONS = ("--model", "--device", "--planes", "--fresh", "--unreliable", "--allow-low-confidence", "--trust-model",
            "--gestational-age", "--any-content")  # fmt: skip
_OTHER_REMEDY = "Correct the file, or save it as one 3D volume; or synthesise it alone, with `usmri synthesize`."
_PICTURES = (
    f" Pictures ({', '.join(PICTURE_FORMATS)}) have no pixel size: synthesise them one by one, with `usmri synthesize`."
)
_STAGING = ".usmri-batch-"
_STAGED = re.compile(r"\d+\.nrrd(\.json)?|batch\.json|earlier-.*|\.writing-.*")


class Batch:
    """The cases of an input folder and their states.

    Args:
        source: folder of images.
        output: folder for the results; made if it is missing.
        model, device, planes: as for `synthesize`.
        fresh: make again what is done already.
        allow_low_confidence: go on with images in which the head is not found reliably; or `unreliable`.
        any_content: go on with frames that show no brain and images without speckle.
        gestational_age: weeks, the same for all images: a prior for the head's size.

    Attributes:
        cases: all cases, in order.
        states: name -> what `batch.json` says of the case.

    Raises:
        Refused: there is no such folder or no image in it, no head has that age, or a file is in the way of a result.
        Failed: the model is not there, the output folder cannot be written, or another batch works on it.
    """

    def __init__(
        self,
        source: Path,
        output: Path,
        *,
        model: str = "default",
        device: str = "auto",
        planes: str | None = None,
        fresh: bool = False,
        allow_low_confidence: bool = False,
        gestational_age: float | None = None,
        unreliable: bool = False,
        any_content: bool = False,
    ) -> None:
        source, output = Path(source).resolve(), Path(output).resolve()
        if not source.is_dir():
            raise Refused("input-folder", f"There is no folder {source.name}.", "Give a folder of ultrasound images.")
        from USMRISynthesisLib.alignment.align import validate_gestational_age  # here: it brings scipy along

        validate_gestational_age(gestational_age)
        manifest = store.read_manifest(store.find_model(model))
        planes = chosen_planes(planes, manifest.input.planes)
        self.cases = find_cases(source, output)
        if not self.cases:
            raise Refused(
                "no-cases",
                f"There is no image to synthesise in {source.name}.",
                f"Give a folder with images in one of these formats: {', '.join(VOLUME_FORMATS)}; or with DICOM."
                + _PICTURES * holds_pictures(source),
            )
        self._output = output
        self._settings = {
            "model": model,
            "device": device,
            "planes": planes,
            "allow_low_confidence": allow_low_confidence or unreliable,
            "unreliable": allow_low_confidence or unreliable,  # its former name
            "gestational_age": gestational_age,
            **({"any_content": True} if any_content else {}),
        }
        self._made_by = {
            "version": __version__,
            "model_sha256": manifest.sha256,
            "planes": planes,
            "gestational_age": gestational_age,
        }
        self._fresh = fresh
        self._began: dict[str, float] = {}
        self.states: dict[str, dict[str, Any]] = {case.name: {"status": WAITING} for case in self.cases}
        made = not output.exists()
        try:
            output.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(output)
        except OSError as error:
            raise _unwritable(output, error) from error
        try:
            check_targets(self.cases, self.status_file)
            _remove_abandoned(output)
            self._staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=output))
            self._save()
        except (OSError, USMRIError) as error:
            if hasattr(self, "_staging"):
                shutil.rmtree(self._staging, ignore_errors=True)
            self._lock.release()
            if made:
                _remove_empty(output)
            if isinstance(error, OSError):
                raise _unwritable(output, error) from error
            raise

    def waiting(self) -> list[Case]:
        """The cases that nothing has been done about yet."""
        return [case for case in self.cases if self.states[case.name]["status"] == WAITING]

    def is_done(self, case: Case) -> bool:
        """Whether an earlier batch made this result, by this model from this file. Reads and hashes both files."""
        content = {} if self._fresh else read_sidecar(case.target)
        try:
            made_by = {
                "version": content["software"]["version"],
                "model_sha256": content["model"]["sha256"],
                "planes": content["planes"],
                "gestational_age": content.get("alignment", {}).get("gestational_age_weeks"),
            }
            return (
                made_by == self._made_by
                and content["input"]["file_sha256"] == files_sha256(case.files)
                and content["output"]["file_sha256"] == file_sha256(case.target)
            )
        except (OSError, KeyError, TypeError):
            return False

    def keep(self, case: Case) -> None:
        """Leave a result that is there already as it is."""
        self._settle(case, {"status": KEPT, "output": self._inside(case.target)})

    def request(self, case: Case, *, trust_model: bool = False) -> dict[str, Any]:
        """The fields of the worker's request for a case, which is running from now on."""
        self._began[case.name] = time.monotonic()
        self.states[case.name] = {"status": RUNNING}
        return {
            "op": "synthesize",
            "input": str(case.source),
            "series": case.series,
            "output": str(self._staged(case)),
            "compress": True,
            "transform": None,
            "trust_model": trust_model,
            **self._settings,
        }

    def done(self, case: Case, result: Mapping[str, Any]) -> None:
        """Take what the worker's `done` event holds: the image and its sidecar get their place."""
        provenance = result["provenance"]
        try:
            try:
                case.target.parent.mkdir(parents=True, exist_ok=True)
                put_in_place(self._staged(case), provenance, case.target, source=case.files)
            except OSError as error:
                raise _unwritable(case.target.parent, error) from error
        except USMRIError as error:  # a full disk ends the batch, a file in the way does not
            self.failed(case, error)
            return
        self._settle(
            case,
            {
                "status": DONE,
                "output": self._inside(case.target),
                "score": result.get("score"),
                "trusted": bool(result.get("trusted", True)),
                "warnings": list(provenance.get("warnings", [])),
            },
        )

    def failed(self, case: Case, error: USMRIError) -> None:
        """Note why a case came to nothing. Raises the error again where no other case could fare better."""
        status = CANCELLED if isinstance(error, Cancelled) else REFUSED if isinstance(error, Refused) else FAILED
        fatal = error.kind in FATAL
        self._settle(
            case,
            {
                "status": FAILED if fatal else status,
                "kind": error.kind,
                "message": error.message,
                "remedy": _remedy(error),
            },
        )
        self._staged(case).unlink(missing_ok=True)
        if fatal:
            raise error

    def close(self) -> None:
        """The end, however it came: what still ran was cancelled, and nothing half-written stays."""
        for state in self.states.values():
            if state["status"] == RUNNING:
                state.update({"status": CANCELLED})
        try:
            self._save()
        except USMRIError:  # the disk is full: the results say themselves what is done
            pass
        shutil.rmtree(self._staging, ignore_errors=True)
        self._lock.release()

    def counts(self) -> Counter[str]:
        """How many cases are in each state."""
        return Counter(state["status"] for state in self.states.values())

    @property
    def status(self) -> str:
        """ "done" when every case has its result, "refused" when only refused inputs have none, else "failed"."""
        counts = self.counts()
        if any(counts[one] for one in (FAILED, CANCELLED, WAITING, RUNNING)):
            return FAILED
        return REFUSED if counts[REFUSED] else DONE

    def summary(self) -> str:
        """One sentence: "12 cases: 9 done, 2 kept, 1 refused." """
        counts = self.counts()
        parts = [f"{counts[one]} {one}" for one in (DONE, KEPT, REFUSED, FAILED, CANCELLED, WAITING) if counts[one]]
        return f"{len(self.cases)} case{'s' if len(self.cases) != 1 else ''}: {', '.join(parts)}."

    @property
    def status_file(self) -> Path:
        """Where the states are kept."""
        return self._output / STATUS_FILE

    def report(self) -> dict[str, Any]:
        """What `batch.json` holds."""
        return {
            "notice": SYNTHETIC,
            "status": self.status,
            "settings": {**self._settings, **self._made_by},
            "counts": dict(self.counts()),
            "cases": self.states,
        }

    def _settle(self, case: Case, state: dict[str, Any]) -> None:
        began = self._began.pop(case.name, None)
        if began is not None:
            state["seconds"] = round(time.monotonic() - began, 2)
        self.states[case.name] = state
        self._save()

    def _staged(self, case: Case) -> Path:
        return self._staging / f"{self.cases.index(case)}.nrrd"

    def _inside(self, path: Path) -> str:
        return path.relative_to(self._output).as_posix()

    def _save(self) -> None:
        part = self._staging / STATUS_FILE
        try:
            part.write_text(dumps(self.report(), indent=2) + "\n", encoding="utf-8")
            place_all([(part, self.status_file)], ours={self.status_file: is_ledger})
        except OSError as error:
            raise _unwritable(self._output, error) from error
        finally:
            part.unlink(missing_ok=True)
        self._lock.touch()


def _unwritable(folder: Path, error: OSError) -> Failed:
    return Failed(
        "write",
        f"The folder {folder.name} cannot be written: {error.strerror or 'it could not be saved'}.",
        "Check free space and permissions of the folder.",
    )


def _remedy(error: USMRIError) -> str:
    """The error's remedy, or one that a batch has, where it names an option of another command."""
    named = re.findall(r"--[a-z][a-z-]+", error.remedy)
    return error.remedy if all(option in _OPTIONS for option in named) else _OTHER_REMEDY


def _remove_abandoned(output: Path) -> None:
    """Remove the working folders of batches that were killed: the lock is ours, so nobody works in them any more.

    Only what a batch puts there is removed.
    """
    for folder in output.glob(f"{_STAGING}*"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for part in folder.iterdir():
            if not _STAGED.fullmatch(part.name):
                continue
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)
        _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # not empty
        pass
