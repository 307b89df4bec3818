"""A local page to read head CTs in: drop a study, scroll, see what a detector says, agree or not."""

import errno
import logging
import secrets
import shutil
import socket
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from src.arguments import Parser
from src.detector.detector import RUNTIMES
from src.detector.folder import find_detector
from src.detector.onnx import NoModels
from src.errors import Stopped, UserError, advising, run_command
from src.files.layout import Layout
from src.files.scratch import scratch_folder
from src.study.answer import Reader
from src.viewer.app import FILES, make_app
from src.viewer.jobs import Room
from src.viewer.readings import FILE, Readings
from src.viewer.security import Guard
from src.viewer.store import Store
from src.viewer.uploads import Limits, Uploads

HOST = "127.0.0.1"  # this machine alone
_SWEEP_S = 10.0


def main() -> None:
    """Read arguments, serve until told to stop."""
    args = _arguments()
    missing = [path for path in args.paths if not path.exists()]
    if missing:
        raise UserError(f"{missing[0]} is missing; expected a DICOM file, or a folder or zip of them")
    free = "give another one with --port, or --port 0 for any that is free"
    with advising(_NoPort, free), _listening(args.port) as listening:
        readings = Readings(args.output / FILE if args.output else None)
        folder = args.detector or find_detector(Layout(args.root))
        with advising(NoModels, "add them with sh bin/export.sh --onnx, or give --runtime torch"):
            reader = Reader.load(folder, device=args.device, runtime=args.runtime, maps=not args.no_maps)
        store = Store(scratch_folder())
        room, uploads = Room(reader, store, args.output), Uploads(store, Limits())
        for path in args.paths:
            room.add(str(path), [path])
        port, token = listening.getsockname()[1], secrets.token_urlsafe(24)
        hosts = (f"{HOST}:{port}", f"localhost:{port}")
        guard = Guard(make_app(room, uploads, readings), hosts=hosts, token=token, files=FILES)
        print(f"http://{hosts[0]}/?token={token}", flush=True)
        print("Open this address in a browser on this machine; Ctrl-C ends.", flush=True)
        if not args.output:
            print("Nothing is kept: results and readings are gone at the end (--output DIR keeps them).", flush=True)
        _run(guard, listening, room, uploads)


def _arguments() -> Namespace:
    parser = Parser(
        prog="python -m src.viewer.serve",
        description=__doc__,
        epilog="example: python -m src.viewer.serve /data/cd.zip --output answers",
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="DICOM files, folders, zips to begin with")
    parser.add_detector()
    parser.add_argument("--port", type=_port, default=8000, help="of this machine; 0 for any free one (default 8000)")
    parser.add_argument("--output", type=Path, help="folder to keep results and readings in (default: none is kept)")
    parser.add_argument("--no-maps", action="store_true", help="no class activation maps, which is faster")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="auto", help="what computes (default: the faster of what there is)"
    )
    parser.add_root()
    return parser.parse_args()


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(text)
    return number


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """A socket that listens on a port of this machine; connections wait until the server runs."""
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                why = "is taken" if error.errno == errno.EADDRINUSE else "is not allowed"
                raise _NoPort(f"port {port} {why}") from error
            raise
        yield listening
    finally:
        listening.close()


class _NoPort(UserError):  # noqa: N818 - it names the state of a port
    """A port that cannot be listened on."""


def _run(guard: Guard, listening: socket.socket, room: Room, uploads: Uploads) -> None:
    """Serve until a signal comes; what is being read then is given up."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # its tracebacks may hold what files say
    config = uvicorn.Config(
        guard, lifespan="off", access_log=False, log_config=None, server_header=False, proxy_headers=False, ws="none",
        timeout_graceful_shutdown=1, timeout_keep_alive=30, limit_concurrency=200,
    )  # fmt: skip
    room.start()
    uploads.start(_SWEEP_S)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except Stopped:
        pass  # a server that is told to end has done its work
    finally:
        uploads.close()
        room.close()
        shutil.rmtree(scratch_folder(), ignore_errors=True)


if __name__ == "__main__":
    run_command(main)
