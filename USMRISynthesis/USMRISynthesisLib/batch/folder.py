"""A batch as its front end sees it, the command line or the Slicer panel: its cases and what became of each.

    batch = Batch(Path("in"), Path("out"))
    for case in batch.waiting():
        if not batch.take(case):         # another process works on it
            continue
        if batch.is_done(case):
            batch.keep(case)
            continue
        result = ...                     # a worker, given batch.request(case)
        batch.done(case, result)         # or batch.failed(case, error)
    batch.close()

`session.py` does the work on the disk. At the end `out/batch.json` has the states of this batch's cases; the ledger in
`out/.usmri` is what lasts. No file is replaced that no batch made: `out` is searched for such files before anything is
done.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from USMRISynthesisLib import __version__
from USMRISynthesisLib.batch import ledger
from USMRISynthesisLib.batch.bids import check_description, write_description
from USMRISynthesisLib.batch.cases import Case, check_targets
from USMRISynthesisLib.batch.inputs import check_sources, gather, part_of
from USMRISynthesisLib.batch.ledger import STATUS_FILE
from USMRISynthesisLib.batch.session import FATAL, Plan, Session, unwritable
from USMRISynthesisLib.errors import Cancelled, USMRIError
from USMRISynthesisLib.geometry.planes import chosen_planes
from USMRISynthesisLib.io.marks import is_ledger
from USMRISynthesisLib.io.strict_json import dumps
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.models import store

WAITING, RUNNING, DONE, KEPT, REFUSED, FAILED, CANCELLED, HELD = (
    "waiting",
    "running",
    "done",
    "kept",
    "refused",
    "failed",
    "cancelled",
    "held",
)
RETRIES = {"failed": ("failed",), "refused": ("refused",), "all": ("failed", "refused")}


class Batch:
    """The cases of a batch and their states.

    Args:
        source: folder of images, a BIDS tree, a table or an image file; or several of them.
        output: folder for the results; made if it is missing.
        model, device, planes: as for `synthesize`.
        fresh: make again what is done already.
        allow_low_confidence: go on with images in which the head is not found reliably; or `unreliable`.
        any_content: go on with frames that show no brain and images without speckle.
        gestational_age: weeks, the same for all images that have none of their own: a prior for the head's size.
        bids: results get BIDS names.
        frame: of films, sequences and 4D files: which time point, or "all".
        part: (number from 1, count): the cases of one part alone.
        retry: "failed", "refused" or "all": only the cases that ended so, by the ledger.
        trust_model: the user agrees to run a model that did not come with the product.

    Attributes:
        cases: all cases, in order.
        states: name -> what `batch.json` says of the case.
        session: this process's hand on the output.

    Raises:
        Refused: an input is not there or has no image, no head has that age, or a file is in the way of a result.
        Failed: the model is not there, or the output folder cannot be written.
    """

    def __init__(
        self,
        source: Path | Sequence[Path],
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
        bids: bool = False,
        frame: int | str | None = None,
        part: tuple[int, int] | None = None,
        retry: str | None = None,
        trust_model: bool = False,
    ) -> None:
        sources = [Path(one).resolve() for one in ([source] if isinstance(source, (str, Path)) else source)]
        output = Path(output).resolve()
        from USMRISynthesisLib.alignment.align import validate_gestational_age  # here: it brings scipy along

        validate_gestational_age(gestational_age)
        check_sources(sources)
        manifest = store.read_manifest(store.find_model(model))
        planes = chosen_planes(planes, manifest.input.planes)
        found = gather(sources, output, bids=bids, frame=frame)
        self.cases = found if part is None else part_of(found, *part)
        if retry is not None:
            states = {row["name"]: row["state"] for row in ledger.fold(output)}
            self.cases = [case for case in self.cases if states.get(case.name) in RETRIES[retry]]
        settings = {
            "model": model,
            "device": device,
            "planes": planes,
            "allow_low_confidence": allow_low_confidence or unreliable,
            "unreliable": allow_low_confidence or unreliable,  # its former name
            "gestational_age": gestational_age,
            **({"any_content": True} if any_content else {}),
        }
        made_by = {
            "version": __version__,
            "model_sha256": manifest.sha256,
            "planes": planes,
            "gestational_age": gestational_age,
        }
        plan = Plan(output, settings, made_by, fresh, trust_model, secrets.token_hex(8))
        self._output = output
        self._whole = part is None and retry is None
        self.states: dict[str, dict[str, Any]] = {case.name: {"status": WAITING} for case in self.cases}
        made = not output.exists()
        try:
            output.mkdir(parents=True, exist_ok=True)
            check_targets(self.cases, self.status_file)
            if bids:
                check_description(output)
            self.session = Session(plan)
            if bids:
                write_description(output, sources)
        except (OSError, USMRIError) as error:
            if hasattr(self, "session"):
                self.session.close()
            if made:
                shutil.rmtree(output / ledger.FOLDER, ignore_errors=True)
                _remove_empty(output)
            if isinstance(error, OSError):
                raise unwritable(output, error) from error
            raise

    @property
    def plan(self) -> Plan:
        """What another process needs to work on the cases."""
        return self.session.plan

    def trust(self) -> None:
        """The user agrees to run a model that did not come with the product."""
        self.session.plan = replace(self.session.plan, trust_model=True)

    def waiting(self) -> list[Case]:
        """The cases that nothing has been done about yet."""
        return [case for case in self.cases if self.states[case.name]["status"] == WAITING]

    def take(self, case: Case) -> bool:
        """Claim a case; False, and noted, where another process works on it."""
        if self.session.take(case):
            return True
        self.states[case.name] = {"status": HELD, "message": "Another process works on it.", "remedy": ""}
        return False

    def is_done(self, case: Case) -> bool:
        """Whether a batch made this result earlier, by this model from this file. Reads and hashes both files."""
        return self.session.is_done(case)

    def keep(self, case: Case) -> None:
        """Leave a result that is there already as it is."""
        self._settle(case, self.session.keep(case))

    def request(self, case: Case, *, trust_model: bool = False) -> dict[str, Any]:
        """The fields of the worker's request for a case, which is running from now on.

        Raises Refused where the case, or its transform, cannot be read.
        """
        fields = self.session.request(case)
        self.start(case)
        return fields | ({"trust_model": True} if trust_model else {})

    def start(self, case: Case) -> None:
        """Note that a case is running."""
        self.states[case.name] = {"status": RUNNING}

    def done(self, case: Case, result: Mapping[str, Any]) -> None:
        """Take what the worker's `done` event holds: the image and its sidecar get their place."""
        self._settle(case, self.session.done(case, result))

    def failed(self, case: Case, error: USMRIError) -> None:
        """Note why a case came to nothing. Raises the error again where no other case could fare better."""
        line = self.session.failed(case, error)
        self._settle(case, {**line, "cancelled": isinstance(error, Cancelled)})
        if error.kind in FATAL:
            raise error

    def note(self, case: Case, line: Mapping[str, Any]) -> None:
        """Take a line of the ledger as the state of a case."""
        state = line["state"]
        if state == ledger.DONE:
            quality = line.get("quality", {})
            kept: dict[str, Any] = {"status": DONE, "output": line["output"], "score": quality.get("score"),
                                    "trusted": quality.get("trusted", True), "warnings": line["warnings"]}  # fmt: skip
        elif state == ledger.SKIPPED:
            held = line.get("kind") != "kept"
            kept = {"status": HELD, "message": line["message"], "remedy": ""} if held else {"status": KEPT}
            kept |= {"output": line["output"]} if "output" in line else {}
        else:
            status = CANCELLED if line.get("cancelled") else state
            kept = {"status": status, **{key: line[key] for key in ("kind", "message", "remedy")}}
        if "seconds" in line:
            kept["seconds"] = line["seconds"]
        self.states[case.name] = kept

    def close(self) -> None:
        """The end, however it came: what still ran was cancelled, and nothing half-written stays."""
        for state in self.states.values():
            if state["status"] == RUNNING:
                state.update({"status": CANCELLED})
        if self._whole:
            self._save()
        self.session.close()

    def counts(self) -> Counter[str]:
        """How many cases are in each state."""
        return Counter(state["status"] for state in self.states.values())

    @property
    def status(self) -> str:
        """ "done" when every case has its result, "refused" when only refused inputs have none, else "failed"."""
        counts = self.counts()
        if any(counts[one] for one in (FAILED, CANCELLED, WAITING, RUNNING, HELD)):
            return FAILED
        return REFUSED if counts[REFUSED] else DONE

    def summary(self) -> str:
        """One sentence: "12 cases: 9 done, 2 kept, 1 refused." """
        counts = self.counts()
        order = (DONE, KEPT, REFUSED, FAILED, CANCELLED, HELD, WAITING)
        parts = [f"{counts[one]} {one}" for one in order if counts[one]] or ["nothing to do"]
        return f"{len(self.cases)} case{'s' if len(self.cases) != 1 else ''}: {', '.join(parts)}."

    @property
    def status_file(self) -> Path:
        """Where the states are kept at the end."""
        return self._output / STATUS_FILE

    def report(self) -> dict[str, Any]:
        """What `batch.json` holds."""
        return {
            "notice": SYNTHETIC,
            "status": self.status,
            "settings": {**self.plan.settings, **self.plan.made_by},
            "counts": dict(self.counts()),
            "cases": self.states,
        }

    def _settle(self, case: Case, line: Mapping[str, Any]) -> None:
        self.note(case, line)
        self.session.release(case)

    def _save(self) -> None:
        """Write `batch.json`, whole or not at all; the ledger stands for it where the disk is full."""
        part = self.session.staging / STATUS_FILE
        try:
            part.write_text(dumps(self.report(), indent=2) + "\n", encoding="utf-8")
            if is_ledger(self.status_file) or not os.path.lexists(self.status_file):
                os.replace(part, self.status_file)
        except OSError:
            part.unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # not empty
        pass
