"""Pictures from a real OpenIGTLink server and images for a real client, both of pyigtl, on this machine's loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.live import HeldRunner, NumberedEngine, number_in, picture
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.live.loop import LiveLoop
from USMRISynthesisLib.live.openigtlink import IMAGE_NAME, STATUS_NAME, Server, Source, frame_of
from USMRISynthesisLib.live.session import LiveSession, Settings
from USMRISynthesisLib.live.shown import Shown, State

pyigtl = pytest.importorskip("pyigtl", reason="pyigtl is not installed")

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SIZE = (70, 80)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


class Scanner:
    """A pyigtl server that sends numbered pictures."""

    def __init__(self, port: int) -> None:
        self.server = pyigtl.OpenIGTLinkServer(port=port, local_server=True)

    def send(self, number: int, kind: int = 0, name: str = "Image") -> None:
        one = picture(number, kind, SIZE)
        message = pyigtl.ImageMessage(one.array, LPS @ one.ijk_to_ras, device_name=name)
        self.server.send_message(message, wait=False)

    def close(self) -> None:
        self.server.communication_thread_stop_requested = True
        self.server.stop()


@pytest.fixture
def scanner() -> Iterator[Scanner]:
    made = Scanner(free_port())
    yield made
    made.close()


@pytest.fixture
def session() -> LiveSession:
    return LiveSession(NumberedEngine(), Settings(mark=False), runner=HeldRunner())


def image_of(client: Any) -> np.ndarray | None:
    message = client.wait_for_message(IMAGE_NAME, timeout=0.05)
    return None if message is None else message.image


def test_the_newest_picture_goes_through_server_session_and_client(scanner: Scanner, session: LiveSession) -> None:
    with (
        Server(0) as server,
        LiveLoop(session, server.send),
        Source("127.0.0.1", scanner.server.port, session.offer, session.lose_source),
    ):
        client = pyigtl.OpenIGTLinkClient("127.0.0.1", server.port)
        try:
            until(lambda: server.clients and scanner.server.is_connected())
            for number in (1, 2, 3):
                scanner.send(number)
                image = until(lambda number=number: (i := image_of(client)) is not None and number_in(i) == number)
            message = until(lambda: client.wait_for_message(IMAGE_NAME, timeout=1))
            image = message.image
            status = until(lambda: client.wait_for_message(STATUS_NAME, timeout=1))
            assert image.dtype == np.int16 and image.shape == (1, *SIZE) and number_in(image) == 3
            np.testing.assert_allclose(LPS @ message.ijk_to_world_matrix, picture(3).ijk_to_ras, atol=1e-5)
            assert status.string.startswith(("live  age ", "frozen  age ")) and "confidence 0.90" in status.string
            assert abs(message.timestamp - time.time()) < 60
        finally:
            client.stop()
    assert not [one for one in threading.enumerate() if one.name.startswith(("OpenIGTLink", "live"))]


def test_a_source_that_goes_away_blanks_the_image_and_is_connected_again(session: LiveSession) -> None:
    port = free_port()
    views: list[Shown] = []
    scanner = Scanner(port)
    with LiveLoop(session, views.append), Source("127.0.0.1", port, session.offer, session.lose_source) as source:
        until(lambda: source.connected)
        until(lambda: scanner.send(1) or session.shown().state is State.LIVE)
        scanner.close()
        until(lambda: session.shown().state is State.BLANK)
        view = session.shown()
        assert view.mr is None and view.reason == f"The source 127.0.0.1:{port} does not answer: it is tried again."
        scanner = Scanner(port)
        try:
            until(lambda: scanner.send(2) or session.shown().state in (State.LIVE, State.FROZEN))
            assert number_in(session.shown().mr) == 2
        finally:
            scanner.close()


def test_a_client_that_comes_late_gets_nothing_old(session: LiveSession) -> None:
    with Server(0) as server:
        first = pyigtl.OpenIGTLinkClient("127.0.0.1", server.port)
        until(lambda: server.clients == 1)
        server.send(Shown(State.LIVE, "", 0.0, mr=np.full((1, *SIZE), 7, np.int16), ijk_to_ras=np.eye(4), taken_at=0.0))
        until(lambda: image_of(first) is not None)
        first.stop()
        late = pyigtl.OpenIGTLinkClient("127.0.0.1", server.port)
        try:
            until(lambda: server.clients >= 1 and late.is_connected())
            assert image_of(late) is None
            server.send(Shown(State.BLANK, "The source is gone.", 0.0))
            image = until(lambda: late.wait_for_message(IMAGE_NAME, timeout=1)).image
            assert image.shape == (1, *SIZE) and not (image == 7).any()
            assert late.wait_for_message(STATUS_NAME, timeout=1).string == "blank: The source is gone."
        finally:
            late.stop()


def test_a_client_that_reads_nothing_holds_nothing_up() -> None:
    view = Shown(State.LIVE, "", 0.0, mr=np.zeros((1, 480, 640), np.int16), ijk_to_ras=np.eye(4), taken_at=0.0)
    with Server(0) as server, socket.create_connection(("127.0.0.1", server.port)) as lazy:
        until(lambda: server.clients == 1)
        began = time.monotonic()
        for _ in range(30):
            server.send(view)
        assert time.monotonic() - began < 20
        lazy.recv(10)
    assert server.clients == 0


def test_views_that_are_no_live_image_say_so_in_their_pixels() -> None:
    server = Server(0)
    with server:
        mr = np.zeros((1, 40, 400), np.int16)
        live = Shown(State.LIVE, "", 0.0, mr=mr, ijk_to_ras=np.eye(4), taken_at=0.0)
        frozen = Shown(State.FROZEN, "The picture is frozen.", 9.0, mr=mr, ijk_to_ras=np.eye(4), taken_at=0.0)
        assert 1000 not in np.frombuffer(server.pack(live)[-mr.nbytes :], np.int16)
        assert 1000 in np.frombuffer(server.pack(frozen)[-mr.nbytes :], np.int16)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 70, 80), np.uint8), "The source sends volumes, not frames."),
        (np.dstack([np.full((70, 80), n, np.uint8) for n in (250, 10, 10)])[None], "in colour"),
    ],
)
def test_what_is_no_grey_frame_is_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(Refused, match=message):
        frame_of(pyigtl.ImageMessage(image, np.eye(4)))


def test_grey_in_colour_big_endian_and_ras_are_understood() -> None:
    grey = np.arange(70 * 80, dtype=np.uint8).reshape(1, 70, 80)
    matrix = np.array([[0, -0.3, 0, 5], [0.2, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    sent = pyigtl.ImageMessage(np.repeat(grey[..., None], 3, axis=3), matrix, "ras")
    packed = sent.pack()
    base = pyigtl.messages.MessageBase
    got = base.create_message("IMAGE")
    got.unpack(base.parse_header(packed[: base.IGTL_HEADER_SIZE]), packed[base.IGTL_HEADER_SIZE :])
    frame = frame_of(got)
    np.testing.assert_array_equal(frame.array, grey)
    np.testing.assert_allclose(frame.ijk_to_ras, matrix, atol=1e-6)
    swapped = frame_of(pyigtl.ImageMessage(grey.astype(">u2"), matrix, "lps"))
    assert swapped.array.dtype == np.uint16 and swapped.array.dtype.isnative
    np.testing.assert_allclose(swapped.ijk_to_ras, LPS @ matrix, atol=1e-6)


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n" * 10, b"\xff" * 200])
def test_a_source_that_speaks_another_language_is_no_source(session: LiveSession, rubbish: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reasons: list[str] = []
        with Source("127.0.0.1", listener.getsockname()[1], session.offer, reasons.append):
            connection, _ = listener.accept()
            connection.sendall(rubbish)
            until(lambda: reasons)
            connection.close()
    assert "does not answer" in reasons[0] and session.offered == 0


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with Server(0) as server, pytest.raises(Failed, match=f"Port {server.port} cannot be used"):
        Server(server.port)


def run_live(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "USMRISynthesisLib.cli", "live", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def sweep(real_frame: Volume, moved: Callable[..., tuple[Volume, np.ndarray]], tmp_path_factory: Any) -> Path:
    """A recorded sequence of a moving real head: 4 frames, 0.1 s apart, as PLUS writes it."""
    frames = [moved(3 * n, 2 * n, n, seed=n)[0].array[0] for n in range(4)]
    path = tmp_path_factory.mktemp("sweep") / "sweep.igs.mha"
    spacing = real_frame.spacing
    entries = "".join(
        f"Seq_Frame{n:04d}_Timestamp = {5 + 0.1 * n:.3f}\nSeq_Frame{n:04d}_ImageStatus = OK\n" for n in range(4)
    )
    header = (
        "ObjectType = Image\nNDims = 3\nDimSize = 640 480 4\n"
        f"ElementSpacing = {spacing[0]} {spacing[1]} 1\nElementType = MET_UCHAR\n"
        f"UltrasoundImageOrientation = MF\n{entries}ElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + np.stack(frames).tobytes())
    return path


def test_the_command_replays_a_sequence_serves_it_and_ends_with_ctrl_c(sweep: Path) -> None:
    port = free_port()
    process = run_live("--source", str(sweep), "--loop", "--serve", str(port), "--json")
    client = pyigtl.OpenIGTLinkClient("127.0.0.1", port)
    try:
        numbers = set()

        def live() -> bool:
            status = client.wait_for_message(STATUS_NAME, timeout=0.1)
            if status is not None and status.string.startswith("live"):
                numbers.add(status.string)
            assert process.poll() is None, process.communicate()
            return len(numbers) > 3

        until(live, 120)
        image = until(lambda: client.wait_for_message(IMAGE_NAME, timeout=1)).image
        assert image.shape == (1, 480, 640) and (image[0, 30:] > 0).sum() > 20_000
    finally:
        client.stop()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    answer = json.loads(out)
    assert process.returncode == 0 and answer["status"] == "done" and answer["images"] > 3, err
    assert "Traceback" not in err


def test_the_command_ends_with_the_recording(sweep: Path) -> None:
    process = run_live("--source", str(sweep), "--serve", "0", "--json", "--rate", "2")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["frames"] == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--source", "nowhere", "--serve", "0"), "--source nowhere is no file and no HOST:PORT."),
        (("--source", "localhost:18944", "--serve", "x"), "--serve 127.0.0.1:x is no port."),
        (("--source", "localhost:1", "--serve", "0", "--median", "0"), "A median of 0 images cannot be made."),
        (("--source", "localhost:1", "--serve", "0", "--seconds", "-1"), "no positive number of seconds"),
    ],
)
def test_what_the_command_cannot_do_is_refused(words: tuple[str, ...], sentence: str) -> None:
    process = run_live(*words)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and sentence in err
