from pathlib import Path

import pandas as pd
import pytest
from xxhash import xxh3_64_hexdigest

from src.errors import UserError
from src.files.checksum import UNSEALED, read_sealed, write_sealed
from src.files.tables import read_arrow, write_arrow, write_table

INSIDE = b'{"a": 1, "checksum": "' + UNSEALED.encode() + b'"}\n'


@pytest.mark.parametrize("data", [b"", b"contents", INSIDE])
def test_what_was_sealed_is_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    write_sealed(path, data)
    found = read_sealed(path)
    if UNSEALED.encode() in data:
        # the checksum is that of the file with zeros in its place
        assert found == data.replace(b"0" * 16, xxh3_64_hexdigest(data).encode())
        assert path.read_bytes() == found
    else:
        assert found == data
        assert path.read_bytes() == data + UNSEALED.encode().replace(
            b"0" * 16, xxh3_64_hexdigest(data + UNSEALED.encode()).encode()
        )


@pytest.mark.parametrize("data", [b"contents", INSIDE])
def test_every_flipped_bit_and_every_lost_end_is_noticed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    write_sealed(path, data)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"f (is damaged|has no checksum)"):
            read_sealed(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"f (is damaged|has no checksum)"):
            read_sealed(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(UserError, match="f is damaged"):
        read_sealed(path)


def test_files_from_elsewhere_need_none(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"from elsewhere")
    assert read_sealed(path, foreign=True) == b"from elsewhere"
    with pytest.raises(UserError, match=r"f has no checksum: .*; delete it") as refused:
        read_sealed(path, advice="; delete it", step="train")
    assert refused.value.step == "train"
    with pytest.raises(UserError, match="g is missing"):
        read_sealed(tmp_path / "g")


def test_contents_that_look_like_a_checksum_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="look like a checksum"):
        write_sealed(tmp_path / "f", UNSEALED.encode() * 2)
    assert not (tmp_path / "f").exists()


def test_a_table_that_was_read_can_be_written_again(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"ID": ["a"]}), tmp_path / "a.parquet")
    write_arrow(read_arrow(tmp_path / "a.parquet", step=""), tmp_path / "b.parquet")
    assert read_arrow(tmp_path / "b.parquet", step="").to_pydict() == {"ID": ["a"]}
