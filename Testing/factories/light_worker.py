"""A worker that plays one: it turns the grey values over, so that a cohort of hundreds takes seconds.

    run(batch, make_worker=LightWorker)

It can be sent to other processes, as the real one can be started there. The environment variables `LIGHT_WORKER_SHA256`
(the model that it says made its results) and `LIGHT_WORKER_SECONDS` (for each case) reach it wherever it runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from USMRISynthesisLib import __version__
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume


class LightWorker:
    """Requests are answered at once, in this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def __enter__(self) -> LightWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def request(self, op: str, *, on_event: Any = None, cancel: Any = None, **fields: Any) -> dict[str, Any]:
        """The input with its grey values turned over, at the output's place."""
        volume = Volume.read(Path(fields["input"]), frame=fields["frame"], series=fields["series"])
        time.sleep(float(os.environ.get("LIGHT_WORKER_SECONDS", "0")))
        turned = Volume(volume.array.max() - volume.array, volume.ijk_to_ras)
        turned.write(fields["output"], metadata={"Comment": SYNTHETIC})
        return {
            "score": 0.9,
            "trusted": True,
            "provenance": {
                "notice": SYNTHETIC,
                "software": {"version": __version__},
                "planes": fields["planes"],
                "alignment": {"gestational_age_weeks": fields["gestational_age"], "transform": fields["transform"]},
                "model": {"name": "tiny", "sha256": os.environ["LIGHT_WORKER_SHA256"]},
                "input": {},
                "warnings": [],
            },
        }
