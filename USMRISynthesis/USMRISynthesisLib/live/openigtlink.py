"""Pictures from an OpenIGTLink server, and MR-like images for OpenIGTLink clients. Messages are pyigtl's.

    with Server(18945) as server, Source("localhost", 18944, session.offer, session.lose_source):
        server.send(view)

The connections are not pyigtl's: its client does not notice that the server has gone, and its server serves one
client and keeps up to a hundred messages for it, of which none must be old here.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.canonical import LPS_RAS
from USMRISynthesisLib.io.colour import to_grey
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.live.mark import burn_in
from USMRISynthesisLib.live.session import TIMESTAMP
from USMRISynthesisLib.live.shown import Shown, State

log = logging.getLogger(__name__)

PORT = 18944
IMAGE_NAME, STATUS_NAME = "MR-like SYNTHETIC", "MR-like status"
RETRY_S = 0.5
_POLL_S = 0.1
# A source that has begun a message and does not go on with it is gone.
_STALLED_S = 5.0
_MOST_BYTES = 1 << 28
# What waits in the system for a client that reads slowly cannot be replaced by something newer.
_BUFFER = 1 << 18


def messages() -> Any:
    """The module pyigtl.messages. Raises Failed where it is not installed."""
    try:
        from pyigtl import messages as found
    except ImportError as error:
        raise Failed(
            "package", "OpenIGTLink needs the Python package pyigtl, which is not installed.", "pip install pyigtl"
        ) from error
    return found


def frame_of(message: Any) -> Volume:
    """The picture in an IMAGE message. Raises Refused for one that is no frame, is in colour, or lies nowhere."""
    image = np.asarray(message.image)
    if image.ndim == 4:
        image = to_grey(np.ascontiguousarray(image)) if image.shape[-1] in (3, 4) else image[..., 0]
    if image.ndim != 3 or image.shape[0] != 1:
        raise Refused("frames", "The source sends volumes, not frames.", "Send the 2D image of the scanner.")
    matrix = np.array(message.ijk_to_world_matrix, dtype=np.float64)
    if message.world_coordinate_system == "lps":
        matrix = LPS_RAS @ matrix
    try:
        native = np.ascontiguousarray(image.astype(image.dtype.newbyteorder("="), copy=False))
        return Volume(native, matrix, {TIMESTAMP: repr(float(message.timestamp))})
    except ValueError as error:
        raise Refused(
            "geometry", "The source's image matrix is not usable.", "Send the size of a pixel with the image."
        ) from error


class Source:
    """Receives IMAGE messages on a thread of its own; connects again when the server is gone.

    Args:
        offer: takes a picture. lost: takes the reason, when the source is gone or sends what cannot be used.
        device: name of the image to take; by default the first one's that comes.
    """

    def __init__(
        self,
        host: str,
        port: int,
        offer: Callable[[Volume], object],
        lost: Callable[[str], object],
        *,
        device: str | None = None,
    ) -> None:
        self._messages = messages()
        self._address, self._offer, self._lost = (host, port), offer, lost
        self._device, self._only = device, device is not None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="OpenIGTLink source", daemon=True)
        self.connected = False
        self.received = 0

    def __enter__(self) -> Source:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        host, port = self._address
        while not self._ending.is_set():
            try:
                with socket.create_connection(self._address, timeout=2.0) as connection:
                    connection.settimeout(_POLL_S)
                    self.connected = True
                    while not self._ending.is_set():
                        self._receive(connection)
            except (OSError, EOFError) as error:
                log.debug("source: %r", error)
            finally:
                self.connected = False
            if not self._only:
                self._device = None
            if not self._ending.is_set():
                self._lost(f"The source {host}:{port} does not answer: it is tried again.")
                self._ending.wait(RETRY_S)

    def _receive(self, connection: socket.socket) -> None:
        """One message. Raises OSError, EOFError when the connection has ended."""
        base = self._messages.MessageBase
        try:
            header = base.parse_header(bytes(self._bytes(connection, base.IGTL_HEADER_SIZE)))
        except ValueError as error:
            raise EOFError("no OpenIGTLink") from error
        if not 0 <= header["body_size"] <= _MOST_BYTES:
            raise EOFError("no OpenIGTLink")
        body = bytes(self._bytes(connection, header["body_size"]))
        if header["message_type"] != "IMAGE" or self._device not in (None, header["device_name"]):
            return
        try:
            message = base.create_message("IMAGE")
            message.unpack(header, body)
            frame = frame_of(message)
        except Refused as error:
            self._lost(str(error))
            return
        except Exception as error:  # whatever pyigtl raises for a message that it cannot read
            log.debug("message", exc_info=True)
            self._lost(f"The source's image cannot be read ({type(error).__name__}).")
            return
        self._device = header["device_name"]
        self.received += 1
        self._offer(frame)

    def _bytes(self, connection: socket.socket, count: int) -> bytearray:
        """So many bytes; waits for the first as long as it takes."""
        data, begun = bytearray(count), time.monotonic()
        view, have = memoryview(data), 0
        while have < count:
            try:
                got = connection.recv_into(view[have:])
            except TimeoutError:
                if self._ending.is_set() or (have and time.monotonic() - begun > _STALLED_S):
                    raise EOFError("ended") from None
                continue
            if got == 0:
                raise EOFError("closed")
            have += got
            begun = time.monotonic()
        return data


class Server:
    """Sends every view to all clients. A client that reads slowly gets the newest one next, and misses others.

    Each view is an IMAGE of the ultrasound frame's size and place, black where nothing is shown, and a STRING with
    state, age, rate, confidence and reason. The IMAGE has the time that the source gave its picture.

    Raises Failed where the port is taken.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._messages = messages()
        try:
            self._listener = socket.create_server((host, port))
        except OSError as error:
            raise Failed(
                "port",
                f"Port {port} cannot be used ({error.strerror or error}).",
                "Choose another one, or end the program that uses it.",
            ) from error
        self.port: int = self._listener.getsockname()[1]
        self._listener.settimeout(_POLL_S)
        self._ending = threading.Event()
        self._news = threading.Condition()
        self._packed: tuple[int, bytes] = (0, b"")
        self._size: tuple[tuple[int, ...], np.ndarray] = ((1, 64, 64), np.eye(4))
        self._clients: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, name="OpenIGTLink server", daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        with self._news:
            self._news.notify_all()
        self._thread.join()
        for client in self._clients:
            client.join()
        self._listener.close()

    @property
    def clients(self) -> int:
        return sum(client.is_alive() for client in self._clients)

    def send(self, view: Shown) -> None:
        """Replace what has not been sent yet by this view."""
        if self.clients:
            packed = self.pack(view)
            with self._news:
                self._packed = (self._packed[0] + 1, packed)
                self._news.notify_all()

    def pack(self, view: Shown) -> bytes:
        """The two messages of a view. The status comes first: whoever has the image knows what it is."""
        if view.mr is not None and view.ijk_to_ras is not None:
            self._size = view.mr.shape, view.ijk_to_ras
        shape, ijk_to_ras = self._size
        image = np.zeros(shape, np.int16) if view.mr is None else view.mr
        image = image if view.state is State.LIVE else burn_in(image, view.state.value)
        now = time.time()
        taken = view.stamp if view.stamp is not None else now - (view.age_s or 0.0)
        status = self._messages.StringMessage(
            view.line.encode("ascii", "replace").decode(), timestamp=now, device_name=STATUS_NAME
        )
        picture = self._messages.ImageMessage(image, LPS_RAS @ ijk_to_ras, "lps", taken, IMAGE_NAME)
        return bytes(status.pack()) + bytes(picture.pack())

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:  # nobody came
                continue
            self._clients = [one for one in self._clients if one.is_alive()]
            client = threading.Thread(target=self._serve, args=(connection,), name="OpenIGTLink client", daemon=True)
            client.start()
            self._clients.append(client)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_POLL_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        sent = self._packed[0]  # what was packed before it came is old
        with connection:
            while not self._ending.is_set():
                with self._news:
                    if self._packed[0] == sent:
                        self._news.wait(_POLL_S)
                    number, packed = self._packed
                try:
                    if number != sent:
                        self._send_all(connection, packed)
                        sent = number
                    elif _has_left(connection):
                        return
                except OSError:
                    return

    def _send_all(self, connection: socket.socket, packed: bytes) -> None:
        view = memoryview(packed)
        while view and not self._ending.is_set():
            try:
                view = view[connection.send(view) :]
            except TimeoutError:  # it reads slowly
                continue


def _has_left(connection: socket.socket) -> bool:
    """Whether a client has closed its end; what it sends is read and dropped."""
    connection.setblocking(False)
    try:
        return connection.recv(4096) == b""
    except (BlockingIOError, TimeoutError):
        return False
    finally:
        connection.settimeout(_POLL_S)
