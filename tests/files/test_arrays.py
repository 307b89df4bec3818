import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.files.arrays import read_arrays, write_arrays
from src.files.checksum import UNSEALED, write_sealed


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path, values = tmp_path / "a.npz", np.arange(6.0).reshape(2, 3)
    write_arrays(path, {"a": values, "key": np.array("k")})
    found = read_arrays(path, {"a": ("float", 2), "key": ("text", 0)})
    np.testing.assert_array_equal(found["a"], values)
    assert str(found["key"]) == "k"
    with np.load(path) as anywhere:
        np.testing.assert_array_equal(anywhere["a"], values)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"a": np.array([1, np.nan])})
    with pytest.raises(UserError, match="a has values that are not finite"):
        read_arrays(tmp_path / "a.npz", {"a": ("float", 1)})


def test_arrays_that_are_something_else(tmp_path: Path) -> None:
    def header(text: str) -> bytes:
        about = text.encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + len(about).to_bytes(2, "little") + about

    whole = io.BytesIO()
    np.save(whole, np.arange(6.0).reshape(2, 3))
    wrong = {
        "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }"),
        "another type": header("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1), }") + bytes(8),
        "another order": header("{'descr': '<f8', 'fortran_order': True, 'shape': (1, 1), }") + bytes(8),
        "other dimensions": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }") + bytes(8),
        "too many": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }") + bytes(8),
        "less than none": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }") + bytes(8),
        "nested": header("(" * 5000),
        "half": whole.getvalue()[:-8],
        "a longer header than file": whole.getvalue()[:20],
        "nothing": b"",
    }
    for data in wrong.values():
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            made = io.BytesIO()
            with zipfile.ZipFile(made, "w", method) as archive:
                archive.writestr("a.npy", data)
                archive.comment = UNSEALED.encode()
            write_sealed(tmp_path / "a.npz", made.getvalue())
            with pytest.raises(UserError, match=r"a.npz does not hold the arrays a"):
                read_arrays(tmp_path / "a.npz", {"a": ("float", 2)})
