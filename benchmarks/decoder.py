"""Compressed slices, decoded in a process of their own against the same decoders in this process.

    python -m benchmarks.decoder --head-ct FOLDER

FOLDER: the DICOM files of one head CT, which GDCM compresses; without it, a generated one. The two ways take turns with
all slices; medians over slices and rounds, from a file in memory to its stored values, without the process's start.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import gdcm

from benchmarks.head_ct import add_head_ct, find_head_ct, head_ct_name
from benchmarks.measure import machine, table
from src.dicom import compressed, decoder
from src.dicom.pixels import parse_stored

SYNTAXES = {
    "JPEG Lossless": "JPEGLosslessProcess14_1",
    "JPEG-LS": "JPEGLSLossless",
    "JPEG 2000": "JPEG2000Lossless",
}


def compress(path: Path, to: Path, syntax: str) -> None:
    """Write a DICOM file with its pixels compressed. syntax: GDCM's name of it."""
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    if not reader.Read():
        raise OSError(f"{path} cannot be read")
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise OSError(f"{path} cannot be compressed")
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(to))
    if not writer.Write():
        raise OSError(f"{to} cannot be written")


def here(file: bytes) -> None:
    """Decode in this process."""
    with patch.object(compressed, "decode", decoder.decode_here):
        parse_stored(file)


def apart(file: bytes) -> None:
    """Decode as the pipeline does."""
    parse_stored(file)


def milliseconds(way: Callable[[bytes], None], file: bytes) -> float:
    """How long a way of decoding takes for a file."""
    started = time.perf_counter()
    way(file)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Read arguments, measure, report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_head_ct(parser)
    parser.add_argument("--slices", type=int, default=28, help="at most so many (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the comparison (default %(default)s)")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        paths = find_head_ct(args.head_ct, work)[: args.slices]
        print(head_ct_name(args.head_ct))
        rows = []
        for name, syntax in SYNTAXES.items():
            for path in paths:
                compress(path, work / f"{path.stem}.{syntax}", syntax)
            files = [(work / f"{path.stem}.{syntax}").read_bytes() for path in paths]
            ms: dict[Callable[[bytes], None], list[float]] = {here: [], apart: []}
            for _ in range(args.rounds):
                for way, times in ms.items():
                    times += [milliseconds(way, file) for file in files]
            theirs, ours = (statistics.median(times) for times in ms.values())
            rows.append((name, theirs, ours, ours / theirs))
    columns = ("coding", "in this process, ms a slice", "in a process of its own", "times")
    table(f"Decoding {len(paths)} slices", columns, rows)


if __name__ == "__main__":
    main()
