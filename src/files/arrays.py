"""Named arrays in one file: an .npz archive that `numpy.load` reads, with a checksum in the archive's comment."""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.errors import UserError, shortened
from src.files.checksum import UNSEALED, read_sealed, write_sealed

KINDS = {"text": "U", "float": "f"}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # a mapping cannot hold savez's own arguments
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = UNSEALED.encode()
    write_sealed(path, buffer.getvalue())


def read_arrays(path: Path, expected: Mapping[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    """Read arrays by name. expected: the kind, a key of KINDS, and the number of dimensions of each.

    Raises UserError where the file is missing or damaged, or an array is of another kind.
    """
    data = read_sealed(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: _read(archive, name, *each) for name, each in expected.items()}
    except Exception as error:  # what is no archive of arrays can make zipfile and numpy raise anything
        raise UserError(f"{path} does not hold the arrays {', '.join(expected)} ({shortened(error)})") from error


def _read(archive: zipfile.ZipFile, name: str, kind: str, dimensions: int) -> np.ndarray:
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")  # so that memory is bounded by the size of the file
    data = io.BytesIO(archive.read(entry))
    if np.lib.format.read_magic(data) != (1, 0):
        raise ValueError(f"{name} has a header of another version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(data)
    # compared before anything is made of that size
    left = entry.file_size - data.tell()
    if dtype.kind != KINDS[kind] or len(shape) != dimensions or (by_columns and dimensions > 1):
        raise ValueError(f"{name}: expected {kind} in {dimensions} dimensions by rows, found {dtype} {shape}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"{name}: {left} bytes do not hold {dtype} {shape}")
    array = np.frombuffer(data.read(), dtype).reshape(shape).copy()  # which may be written to
    if kind == "float" and not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite")
    return array
