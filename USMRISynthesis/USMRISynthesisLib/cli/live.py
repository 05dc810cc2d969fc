"""`usmri live`: MR-like images of a stream, from and to OpenIGTLink, or from a recorded sequence.

usmri live --source localhost:18944 --serve 18945
usmri live --source sweep.igs.mha --loop --serve 18945
"""

from __future__ import annotations

import re
import time
from argparse import Namespace
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli import options as shared
from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.errors import Refused

if TYPE_CHECKING:
    from USMRISynthesisLib.live.session import LiveSession

_ADDRESS = re.compile(r"(?P<host>[\w.\-]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})", re.ASCII)
_TICK_S = 0.2
_MOST_MEDIAN = 15


def add_commands(commands: Any) -> None:
    """The command's parser."""
    made = shared.add_command(
        commands, "live", "make MR-like images of a stream of ultrasound frames (OpenIGTLink)", live, silent=True
    )
    made.add_argument(
        "--source",
        required=True,
        metavar="HOST:PORT|FILE",
        help="OpenIGTLink server that sends IMAGE messages, or a recorded sequence, which is replayed at its own rate",
    )
    made.add_argument(
        "--serve",
        required=True,
        metavar="[HOST:]PORT",
        help="where OpenIGTLink clients get the images (this machine alone; 0.0.0.0:PORT: from others, too)",
    )
    made.add_argument("--image-name", metavar="NAME", help="which image of the source, where it sends several")
    made.add_argument("--loop", action="store_true", help="replay the sequence again and again")
    made.add_argument("--rate", type=float, metavar="N", help="frames a second, instead of the sequence's own")
    made.add_argument("--pixel-size", type=float, metavar="MM", help="pixel size of the sequence, instead of its own")
    made.add_argument("--seconds", type=float, metavar="S", help="end after so long; by default with Ctrl-C")
    made.add_argument(
        "--median",
        type=int,
        default=1,
        metavar="K",
        help=f"show the median of the last K images (1 to {_MOST_MEDIAN})",
    )
    shared.add_model(made)
    shared.add_low_confidence(made, "go on although the head was not found reliably")
    shared.add_any_content(made)


def live(options: Namespace) -> Outcome:
    """Run until Ctrl-C, the end of the recording, or `--seconds`."""
    host, port = _address(options.serve if ":" in options.serve else f"127.0.0.1:{options.serve}", "--serve")
    if not 1 <= options.median <= _MOST_MEDIAN:
        raise Refused(
            "arguments", f"A median of {options.median} images cannot be made.", f"Choose 1 to {_MOST_MEDIAN}."
        )
    if options.seconds is not None and not options.seconds > 0:
        raise Refused("arguments", "The time to run is no positive number of seconds.", "Correct --seconds.")
    of_recording = Path(options.source).exists()
    server_address = None if of_recording else _address(options.source, "--source")
    recording = None
    if of_recording:
        from USMRISynthesisLib.live.replay import read_recording

        recording = read_recording(Path(options.source), rate=options.rate, pixel_size_mm=options.pixel_size)
    from USMRISynthesisLib.live.engine import Engine, use_one_thread
    from USMRISynthesisLib.live.loop import LiveLoop
    from USMRISynthesisLib.live.openigtlink import Server, Source
    from USMRISynthesisLib.live.replay import Replay
    from USMRISynthesisLib.live.session import LiveSession, Settings

    with ExitStack() as stack:
        server = stack.enter_context(Server(port, host))  # before the model: a port that is taken is said at once
        engine = Engine(
            options.model,
            options.device,
            consent=lambda sha256, name: options.trust_model,
            allow_low_confidence=options.unreliable,
            any_content=options.any_content,
        )
        use_one_thread()
        session = LiveSession(engine, Settings(median=options.median))
        loop = stack.enter_context(LiveLoop(session, server.send))
        source: AbstractContextManager[Any]
        if recording is not None:
            source = Replay(recording, session.offer, session.lose_source, loop=options.loop)
        else:
            assert server_address is not None
            source = Source(*server_address, session.offer, session.lose_source, device=options.image_name)
        stack.enter_context(source)
        if not options.quiet:
            console.say(f"{engine.description}; images are served at {host}:{server.port}. Ctrl-C ends it.")
        _watch(options, session, loop, source)
    if loop.error is not None:
        raise loop.error
    return f"{session.made} images of {session.offered} frames were made.", {
        "frames": session.offered,
        "dropped": session.dropped,
        "images": session.made,
        "port": server.port,
    }


def _watch(options: Namespace, session: LiveSession, loop: Any, source: Any) -> None:
    """Until it ends; a change of state is one line on stderr."""
    last, began = "", time.monotonic()
    try:
        while loop.running and getattr(source, "running", True):
            if options.seconds is not None and time.monotonic() - began >= options.seconds:
                break
            time.sleep(_TICK_S)
            view = session.shown()
            news = f"{view.state.value} {view.reason}"
            if news != last and not options.quiet:
                console.say(view.line)
            last = news
    except KeyboardInterrupt:
        pass


def _address(text: str, option: str) -> tuple[str, int]:
    """Host and port. Raises Refused."""
    found = _ADDRESS.fullmatch(text)
    if not found or not 0 <= int(found["port"]) <= 65535:
        what = "no file and no HOST:PORT" if option == "--source" else "no port"
        raise Refused("arguments", f"{option} {text} is {what}.", "Example: --source localhost:18944 --serve 18945.")
    return found["host"].strip("[]"), int(found["port"])
