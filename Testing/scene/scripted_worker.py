"""A worker without networks, for tests that need to say exactly what happens when.

Speaks the contract of USMRISynthesisLib.worker; the "model" of a request is the part that it plays:
    copy       progress, then the input as the result
    slow       progress for a minute
    chatter    prints garbage on standard output between events, then copies
    refuse     refuses the input
    exit N     leaves with that exit code in the middle
    family     starts a child of its own, then is slow
    foreign    wants to be trusted first, then copies
    doubt      refuses a head that it does not find reliably; with allow_low_confidence, warns and copies
    abdomen    refuses a frame without a brain; with any_content, warns and copies
    nothing    says it is done and leaves no file
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

from USMRISynthesisLib import __version__
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume  # the process is started in the module's folder


def say(request: dict, event: str, **content: object) -> None:
    print(json.dumps({"id": request["id"], "event": event, **content}), flush=True)


def serve(request: dict) -> None:
    part, *arguments = request["model"].split()
    say(request, "progress", value=0.1, stage="Reading")
    if part == "refuse":
        say(
            request,
            "error",
            category="refused",
            kind="extent",
            message="The image is 5 mm wide.",
            remedy="Correct the spacing.",
        )
        return
    if part == "foreign" and not request["trust_model"]:
        say(
            request,
            "error",
            category="refused",
            kind="consent",
            model=part,
            sha256="0" * 64,
            message="The model 'foreign' has not been trusted yet.",
            remedy="Trust it only if you know it.",
        )
        return
    if part == "doubt" and not request.get("unreliable") and request["transform"] is None:
        say(
            request,
            "error",
            category="refused",
            kind="unreliable",
            message="The head was not found reliably (score 0.20; 0.50 is needed).",
            remedy="Use --unreliable.",
        )
        return
    if part == "abdomen" and not request.get("any_content"):
        say(
            request,
            "error",
            category="refused",
            kind="content",
            message="The frame does not look like an ultrasound of a fetal brain (probability 0.02).",
            remedy="Choose a frame of the fetal brain, or go on with --any-content.",
        )
        return
    if part == "abdomen":
        say(request, "log", level="warning", text="The frame does not look like a brain.")
    if part == "doubt":
        say(request, "log", level="warning", text="The skull fits poorly.")
    if part == "exit":
        print("something broke", file=sys.stderr, flush=True)
        sys.exit(int(arguments[0]))
    if part == "family":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    if part == "chatter":
        print("Hello from a library\n{not json\n[1, 2]", flush=True)
    for step in range(600 if part in ("slow", "family") else 3):
        say(request, "progress", value=0.2 + 0.001 * step, stage="Synthesising")
        time.sleep(0.1 if part in ("slow", "family") else 0.01)
    if part != "nothing":
        shutil.copy(request["input"], request["output"])
    if request["op"] == "respace":
        say(
            request,
            "done",
            result={
                "output": request["output"],
                "consistency": 0.01,
                "provenance": {"notice": SYNTHETIC, "operation": "respace", "model": {"name": part, "sha256": part}},
            },
        )
        return
    if request.get("confidence"):  # 0-1
        seen = Volume.read(request["input"])
        Volume((seen.array / 255).astype("float32"), seen.ijk_to_ras).write(request["confidence"])
    if request.get("masks"):  # the brighter half for the head
        head = Volume.read(request["input"])
        Volume((head.array > 0).astype("uint8") + (head.array > 60), head.ijk_to_ras).write(request["masks"])
    say(
        request,
        "done",
        result={
            "output": request["output"],
            "confidence": request.get("confidence"),
            "masks": request.get("masks"),
            "trusted": part != "doubt",
            "score": 0.2 if part == "doubt" else 0.9,
            "method": "ellipsoid",
            "ras_to_canonical": request["transform"] or [1.1, 0, 0, 5, 0, 1.1, 0, 6, 0, 0, 1.1, 7, 0, 0, 0, 1],
            "provenance": {
                "notice": SYNTHETIC,
                "software": {"name": "USMRISynthesis", "version": __version__},
                "device": {"name": "cpu", "reason": "No GPU is used: this is a test."},
                "model": {"name": part, "sha256": part},
                "planes": request.get("planes") or "all",
                "input": {"sha256": "0"},
                "alignment_trusted": part != "doubt",
                "alignment": {
                    "score": 0.2 if part == "doubt" else 0.9,
                    "method": "ellipsoid",
                    "gestational_age_weeks": request["gestational_age"],
                },
            },
        },
    )


for line in sys.stdin:
    serve(json.loads(line))
