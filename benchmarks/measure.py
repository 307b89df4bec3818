"""How the benchmarks measure: candidates take turns in one process; memory is that of a separate process."""

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from src.text_table import markdown_table


def take_turns(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Run each function once a round, after one round that is not measured: median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for counted in (False, *[True] * rounds):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            if counted:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def alone(function: Callable[..., Any], *arguments: Any) -> tuple[float, int, Any]:
    """Call a function in a fresh process: (seconds, peak memory of that process in MB, its result).

    Raises RuntimeError with the error that the function raised, or where the process was ended.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        result = json.loads(receiver.recv())
    except EOFError:
        result = {"error": "the process was ended"}
    process.join()
    if "error" in result:
        raise RuntimeError(result["error"])
    return result["seconds"], result["megabytes"], result["result"]


def _measured(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    started = time.perf_counter()
    try:
        result = function(*arguments)
    except Exception as error:  # noqa: BLE001 - the caller raises it again
        sender.send(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return
    seconds = time.perf_counter() - started
    # not ru_maxrss, which a process inherits from its parent
    with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
        peak = next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM"))
    sender.send(json.dumps({"seconds": seconds, "megabytes": peak, "result": result}))


def table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print a table as Markdown."""
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    print(f"\n{title}\n", *markdown_table([columns, *cells]), sep="\n", flush=True)


def machine() -> str:
    """The hardware, in words."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        names = {line.split(":")[1].strip() for line in file if line.startswith("model name")}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({', '.join(names)}), {memory:.0f} GiB, Python {platform.python_version()}"
