"""A Python that has imported the heavy packages already, since a start of torch takes seconds and tests start hundreds.

`warm_python()` starts a server that imports third-party packages, none of this project's, and yields the path of a
program to use in place of `sys.executable`. `PROGRAM -m MODULE ...` then runs the module in a fork of the server, with
the caller's arguments, environment, folder and open files, and ends with its status; signals are handed on, and where
the program is killed the fork is killed too. Anything else, and a caller whose environment differs in what packages
read while they are imported, gets the real Python. Tests of imports, of early signals and of interpreters use
`sys.executable`.
"""

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = (
    *("numpy", "pandas", "pyarrow.parquet", "pydicom", "blosc2", "cv2", "joblib", "yaml", "tqdm", "safetensors.torch"),
    *("torch", "torch._dynamo", "torch.utils.data", "torch.utils.tensorboard", "torchvision", "timm", "accelerate"),
    *(
        "albumentations",
        "pretrainedmodels",
        "efficientnet_pytorch",
        "scipy.optimize",
        "scipy.stats",
        "sklearn.isotonic",
        "sklearn.metrics",
    ),
    *("onnxruntime", "onnx", "highdicom", "pynetdicom", "jinja2", "matplotlib.figure", "pydantic", "xxhash"),
)
# Variables of these beginnings are read while packages are imported, or by the interpreter as it starts; not among them
# are LD_ and KMP_, which packages themselves set while they are imported.
READ_AT_IMPORT = ("OMP_", "GOMP_", "MKL_", "OPENBLAS_", "HF_", "TORCH_", "CUDA_", "PYTHON")
# by the scripts; here, where a fork becomes the process that was asked for; by torchrun's ranks
READ_LATER = ("PYTHON", "PYTHONPATH", "TORCH_NCCL_ASYNC_ERROR_HANDLING")
_LONGEST = 1 << 20


@contextmanager
def warm_python() -> Iterator[str]:
    """Yield the path of the program."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place))  # here, so that a caller that comes before the server is ready waits for it
        listener.listen(64)
        program = Path(folder) / "python"
        here = [sys.executable, "-S", "-I", __file__, "ask", str(place), sys.executable]
        program.write_text("#!/bin/sh\nexec " + " ".join(f"'{each}'" for each in here) + ' "$@"\n')
        program.chmod(0o755)
        command = [sys.executable, __file__, "serve", str(listener.fileno()), str(program)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
        listener.close()
        try:
            yield str(program)
        finally:
            server.kill()  # without waiting for what it imports; what it has forked goes on
            server.communicate()


def read_at_import(environment: dict[str, str]) -> dict[str, str]:
    """The variables that packages, or the interpreter, read as they start."""
    return {
        key: value for key, value in environment.items() if key.startswith(READ_AT_IMPORT) and key not in READ_LATER
    }


def _serve(descriptor: int, program: str) -> None:
    """Fork for each caller, until the process that started this one closes its end of stdin."""
    listener = socket.socket(fileno=descriptor)
    environment = read_at_import(dict(os.environ))  # some packages set variables
    for package in PACKAGES:
        importlib.import_module(package)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)
        caller, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sys.executable = program  # what a launcher starts its ranks with
            _answer(caller, environment)
        caller.close()


def _answer(caller: socket.socket, environment: dict[str, str]) -> None:
    """Run what a caller asks for in a child, and send its wait status. environment: what was read at import."""
    length = int.from_bytes(caller.recv(4), "big")
    data, files, _, _ = socket.recv_fds(caller, _LONGEST, 3)
    while len(data) < length:
        data += caller.recv(_LONGEST)
    asked = json.loads(data)
    if read_at_import(asked["environment"]) != environment:
        caller.sendall(b"other")
        os._exit(0)
    child = os.fork()
    if child == 0:
        caller.close()
        os.setpgid(0, 0)
        _become(asked, files)
    for descriptor in files:
        os.close(descriptor)
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([ended, caller], [], [])
        if ended in ready:
            _, status = os.waitpid(child, 0)
            with suppress(OSError):
                caller.sendall(f"ended {status}".encode())
            os._exit(0)
        told = caller.recv(1)  # the number of a signal; nothing where the caller was killed
        with suppress(ProcessLookupError):
            if told:
                os.kill(child, told[0])
            elif os.getpgid(child) == child:  # with all that it started, as a group is killed
                os.killpg(child, signal.SIGKILL)
            else:
                os.kill(child, signal.SIGKILL)
        if not told:
            os._exit(0)


def _become(asked: dict, files: list[int]) -> None:
    """Be the process that the caller wanted: `python -m MODULE ARGUMENTS`."""
    with suppress(PermissionError):  # the caller has a session of its own: this keeps the group that it has
        os.setpgid(0, asked["group"])
    for number, descriptor in enumerate(files):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    for number in (signal.SIGINT, signal.SIGQUIT):
        if number in asked["ignored"]:
            signal.signal(number, signal.SIG_IGN)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    tempfile.tempdir = None  # TMPDIR may be another one
    also = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:1] = [asked["folder"], *also]
    module, *arguments = asked["arguments"]
    sys.argv = ["-m", *arguments]
    status = 0
    try:
        runpy._run_module_as_main(module)  # type: ignore[attr-defined] # what `python -m` calls
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - shown as the interpreter would
        sys.excepthook(*sys.exc_info())
        status = 1
    _exit(status)


def _exit(status: int) -> None:
    """End as the interpreter does: exit functions, threads and buffers first."""
    import atexit
    import threading

    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _ask(place: str, python: str, arguments: list[str]) -> None:
    """Have the server run a module, and end as it ends; all else is for the real Python."""
    if arguments[:1] == ["-u"]:  # as torchrun asks for
        arguments = arguments[1:]
    if arguments[:1] != ["-m"]:
        os.execv(python, [python, *arguments])  # noqa: S606 - the real one
    ignored = [int(n) for n in (signal.SIGINT, signal.SIGQUIT) if signal.getsignal(n) == signal.SIG_IGN]
    server = socket.socket(socket.AF_UNIX)
    for number in (signal.SIGTERM, signal.SIGINT):
        if number not in ignored:
            signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
    asked = {
        "arguments": arguments[1:],
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "group": os.getpgrp(),
        "ignored": ignored,
    }
    data = json.dumps(asked).encode()
    server.connect(place)
    server.sendall(len(data).to_bytes(4, "big"))
    sent = socket.send_fds(server, [data], [0, 1, 2])
    server.sendall(data[sent:])
    word, _, status = server.recv(100).decode().partition(" ")
    if word == "other":
        os.execv(python, [python, *arguments])  # noqa: S606 - the real one
    if not status:
        sys.exit("the server of the warm Python has ended")
    code = os.waitstatus_to_exitcode(int(status))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(int(sys.argv[2]), sys.argv[3])
    else:
        _ask(sys.argv[2], sys.argv[3], sys.argv[4:])
