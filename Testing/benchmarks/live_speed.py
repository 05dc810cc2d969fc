"""A live stream through OpenIGTLink on this machine's loopback: images a second, their age, and the memory over time.

    python Testing/benchmarks/live_speed.py [--seconds 300] [--rate 30] [--busy] [--json] [--record FILE]

A server of pyigtl, in a process of its own, sends a real head that moves, 640 x 480, with the time in each message;
`usmri live` relays it; a client of pyigtl receives the images. The age is what the client sees: from the moment when a
picture was sent to the moment when its image was received, the client's poll of 10 ms included. `--busy`: another
process keeps the second core busy meanwhile. Goals: at least 15 images a second, a median age of at most 100 ms, a 95th
percentile of at most 200 ms, no growth. `load` is what else ran: with more than this, the figures are not to be quoted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import records
from scipy import ndimage

SAMPLES = Path(__file__).resolve().parents[2] / "Resources" / "SampleData"
SIZE = (480, 640)
LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_CYCLE = 60  # pictures that are made beforehand, and come there and back
_SETTLING_S = 3.0
GOALS = {"images_per_s": (">=", 15), "age_median_ms": ("<=", 100), "age_95_ms": ("<=", 200), "growth_mb": ("<=", 20)}


def moving_head() -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures (1, 480, 640) uint8 of the bundled real head: it moves by 30 mm and turns by 15 degrees, under speckle
    that changes; and (4, 4) ijk_to_ras."""
    from USMRISynthesisLib.io.volume import Volume

    sample = Volume.read(SAMPLES / "fetal-head-hc18.nrrd")
    factor = min(n / m for n, m in zip(SIZE, sample.shape[1:], strict=True)) * 0.9
    grown = ndimage.zoom(sample.array[0].astype(np.float32), factor, order=1)
    whole = np.zeros(SIZE, np.float32)
    top, left = ((n - m) // 2 for n, m in zip(SIZE, grown.shape, strict=True))
    whole[top : top + grown.shape[0], left : left + grown.shape[1]] = grown
    matrix = sample.ijk_to_ras.copy()
    matrix[:3, :2] /= factor
    rng, pictures, middle = np.random.default_rng(3), [], (np.array(SIZE) - 1) / 2
    for n in range(_CYCLE):
        turn = np.deg2rad(15 * n / _CYCLE)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shift = np.array([-40.0, 90.0]) * n / _CYCLE
        moved = ndimage.affine_transform(whole, rotation, middle - rotation @ (middle + shift), order=1)
        grain = ndimage.gaussian_filter(rng.rayleigh(0.8, SIZE), 1.0)
        moved *= 1 + 0.25 * (grain - grain.mean()) / grain.std()
        pictures.append(np.clip(moved, 0, 255).astype(np.uint8)[None])
    return pictures, matrix


def send(port: int, rate: float) -> None:
    """Serve the pictures until the process is ended."""
    import pyigtl

    pictures, matrix = moving_head()
    server = pyigtl.OpenIGTLinkServer(port=port, local_server=True)
    print("ready", flush=True)
    began, number = time.monotonic(), 0
    while True:
        due = began + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        if server.is_connected():
            at = number % (2 * _CYCLE - 2)
            image = pictures[at if at < _CYCLE else 2 * _CYCLE - 2 - at]
            message = pyigtl.ImageMessage(image, LPS_RAS @ matrix, timestamp=time.time(), device_name="Probe")
            server.send_message(message, wait=False)
        number += 1


def measure(seconds: float, rate: float, busy: bool, model: str) -> dict[str, Any]:
    """One run."""
    import pyigtl

    source, serve = (_free_port() for _ in range(2))
    words = [sys.executable, __file__, "--send", str(source), "--rate", str(rate)]
    sender = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    others = [sender]
    try:
        assert sender.stdout is not None and sender.stdout.readline().strip() == "ready"
        relay = subprocess.Popen(
            [sys.executable, "-m", "USMRISynthesisLib.cli", "live", "--source", f"127.0.0.1:{source}",
             "--serve", str(serve), "--model", model, "--json", "--quiet"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        others.append(relay)
        if busy:
            others.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
                os.sched_setaffinity(others[-1].pid, [max(os.sched_getaffinity(0))])
        client = pyigtl.OpenIGTLinkClient("127.0.0.1", serve)
        found = _watch(client, relay, seconds)
        client.stop()
        relay.send_signal(signal.SIGINT)
        answer = json.loads(relay.communicate(timeout=60)[0])
        found |= {key: answer[key] for key in ("frames", "dropped", "images")}
    finally:
        for process in others:
            process.kill()
            process.wait()
    return {"seconds": seconds, "busy": busy, "load": round(os.getloadavg()[0], 2), **found}


def _watch(client: Any, relay: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """What the client sees, from a while after the first image on."""
    ages: list[float] = []
    gaps: list[float] = []
    memory: list[tuple[float, float]] = []
    blank = 0
    spent = began = before = 0.0
    live = False
    while not began or time.monotonic() < began + seconds:
        message = client.wait_for_message("MR-like SYNTHETIC", timeout=2.0)
        now = time.time()
        status = client.incoming_messages.get("MR-like status")
        if status is not None:
            live = status.string.startswith("live")
        if message is None or not live:
            blank += bool(began)
            continue
        if not began:
            began = time.monotonic() + _SETTLING_S
        if time.monotonic() < began:
            spent = _processor_seconds(relay.pid)
            continue
        ages.append(now - message.timestamp)
        gaps.append(now - before if before else 0.0)
        before = now
        if not memory or time.monotonic() - memory[-1][0] >= 1:
            memory.append((time.monotonic(), _memory_mb(relay.pid)))
    spent = _processor_seconds(relay.pid) - spent
    third = max(1, len(memory) // 3)
    early, late = (float(np.mean([mb for _, mb in part])) for part in (memory[:third], memory[-third:]))
    return {
        "received": len(ages),
        "images_per_s": round(len(ages) / seconds, 2),
        "age_median_ms": round(1000 * float(np.median(ages)), 1),
        "age_95_ms": round(1000 * float(np.percentile(ages, 95)), 1),
        "age_max_ms": round(1000 * max(ages), 1),
        "longest_gap_ms": round(1000 * max(gaps), 1),
        "not_live": blank,
        "memory_mb": [round(mb, 1) for _, mb in memory[:: max(1, len(memory) // 20)]],
        "growth_mb": round(late - early, 1),
        "processor_ms_per_image": round(1000 * spent / max(1, len(ages)), 1),
    }


def _memory_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(float(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float, default=30)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--model", default="default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", metavar="FILE", help="also write the figures for `make results`")
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send is not None:
        send(options.send, options.rate)
    found = measure(options.seconds, options.rate, options.busy, options.model)
    if options.record:
        busy = ", the second core busy" if options.busy else ""
        command = f"python Testing/benchmarks/live_speed.py --seconds {options.seconds:g}{' --busy' * options.busy}"
        title = f"Live: 640x480 at {options.rate:g} a second through OpenIGTLink{busy}"
        records.write(options.record, title, command, found)
    if options.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        sign, goal = GOALS.get(key, ("", 0))
        met = "" if not sign else f"  (goal {sign} {goal}: {'met' if (value >= goal) == (sign == '>=') else 'NOT met'})"
        print(f"{key:24} {value}{met}")


if __name__ == "__main__":
    main()
