"""A recorded sequence: its frames at its own times, and what cannot be replayed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from factories.live import picture
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.live.replay import USUAL_RATE, Recording, Replay, read_recording


def write(path: Path, times: list[float | None], lost: tuple[int, ...] = ()) -> Path:
    """A MetaImage sequence of 64 x 80 pixels; frame n is full of n."""
    entries = ""
    for n, moment in enumerate(times):
        entries += f"Seq_Frame{n:04d}_ImageStatus = {'INVALID' if n in lost else 'OK'}\n"
        entries += "" if moment is None else f"Seq_Frame{n:04d}_Timestamp = {moment}\n"
    header = (
        f"ObjectType = Image\nNDims = 3\nDimSize = 80 64 {len(times)}\nElementSpacing = 0.4 0.4 1\n"
        f"ElementType = MET_UCHAR\n{entries}ElementDataFile = LOCAL\n"
    )
    frames = np.stack([np.full((64, 80), n, np.uint8) for n in range(len(times))])
    path.write_bytes(header.encode() + frames.tobytes())
    return path


def test_frames_come_at_the_times_that_the_file_states(tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path / "a.igs.mha", [7.0, 7.1, 7.5, 7.6], lost=(1,)))
    assert [int(frame.array[0, 0, 0]) for frame in recording.frames] == [0, 2, 3]
    assert recording.times == pytest.approx([0, 0.5, 0.6]) and recording.rate == pytest.approx(2 / 0.6)


@pytest.mark.parametrize("times", [[None] * 3, [1.0, None, 3.0], [1.0, 0.5, 2.0]])
def test_without_usable_times_the_usual_rate_is_taken(tmp_path: Path, times: list[float | None]) -> None:
    recording = read_recording(write(tmp_path / "a.igs.mha", times))
    assert recording.times == pytest.approx([n / USUAL_RATE for n in range(3)])


def test_a_rate_that_is_given_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.igs.mha", [1.0, 2.0, 3.0])
    assert read_recording(path, rate=10).times == pytest.approx([0, 0.1, 0.2])
    with pytest.raises(Refused, match="A rate of 0 frames"):
        read_recording(path, rate=0)


def test_volumes_and_sequences_without_a_valid_frame_are_refused(tmp_path: Path) -> None:
    Volume(np.zeros((9, 70, 80), np.uint8), np.eye(4)).write(tmp_path / "volume.nrrd")
    with pytest.raises(Refused, match="holds volumes, not frames"):
        read_recording(tmp_path / "volume.nrrd")
    with pytest.raises(Refused, match="holds no valid frame"):
        read_recording(write(tmp_path / "lost.igs.mha", [1.0, 2.0], lost=(0, 1)))


def test_a_replay_ends_with_a_reason_or_goes_on_and_on() -> None:
    recording = Recording(tuple(picture(n) for n in range(3)), (0.0, 0.02, 0.04))
    came: list[int] = []
    reasons: list[str] = []
    with Replay(recording, lambda frame: came.append(int(frame.array[0, 0, 0])), reasons.append) as replay:
        while replay.running:
            time.sleep(0.01)
    assert came == [0, 1, 2] and reasons == ["The recording has ended."]
    with Replay(recording, lambda frame: came.append(int(frame.array[0, 0, 0])), reasons.append, loop=True):
        end = time.monotonic() + 30
        while len(came) < 10 and time.monotonic() < end:
            time.sleep(0.01)
    assert came[3:10] == [0, 1, 2, 0, 1, 2, 0] and len(reasons) == 1
