from pathlib import Path

import pandas as pd
import pytest

from src.errors import UserError
from src.files.checksum import write_sealed
from src.files.tables import read_csv, read_table, write_table


def test_every_flipped_byte_of_a_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pd.DataFrame({"ID": [f"ID_{i}" for i in range(50)], "n": range(50)})
    write_table(table, path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x20
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"t\.parquet "):
            read_table(path, ["ID", "n"], step="")


def test_round_trip(tmp_path: Path) -> None:
    table = pd.DataFrame({"ID": ["ID_1"], "z": [1.5]})
    write_table(table, tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet", ["ID"], step=""), table)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t.parquet is missing") as missing:
        read_table(tmp_path / "t.parquet", ["ID"], step="x")
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="has no checksum"):
        read_table(tmp_path / "t.parquet", ["ID"], step="x")
    write_sealed(tmp_path / "t.parquet", b"no parquet")
    with pytest.raises(UserError, match="not a readable parquet table") as unreadable:
        read_table(tmp_path / "t.parquet", ["ID"], step="x")
    assert missing.value.step == unreadable.value.step == "x"
    write_table(pd.DataFrame({"z": [1]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="lacks the columns ID; it has z"):
        read_table(tmp_path / "t.parquet", ["ID"], step="x")
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(UserError, match="not a readable CSV"):
        read_csv(tmp_path / "t.csv", ["ID"])
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="lacks the columns ID"):
        read_csv(tmp_path / "t.csv", ["ID"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ID,Label\na,0,5\nb,0,5\n", "row 2 has more fields than the header; expected as many .*commas"),
        ("ID,Label\na,0\nb,0,5\n", "Expected 2 fields in line 3, saw 3"),
        ("ID,Label\na,0\nb,1\n" + "\0" * 5000, "is damaged: a zero byte at 17"),
        ('ID,Label\n"a,0\n' + "b" * 5000, "not a readable CSV"),
    ],
)
def test_csv_files_that_are_something_else(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        read_csv(tmp_path / "t.csv", ["ID", "Label"])
    assert len(str(refused.value)) < 500


def test_an_empty_field_too_many_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ID,Label\na,0,\nb,1,\n")
    assert read_csv(tmp_path / "t.csv", ["ID", "Label"])["Label"].tolist() == [0, 1]
