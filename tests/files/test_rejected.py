from pathlib import Path

import pandas as pd
import pytest

from src.errors import UserError
from src.files.rejected import Rejected, read_rejected, rejected_file, write_rejected
from src.files.tables import write_table

ROWS = pd.DataFrame([Rejected("ID_1", "a.dcm", "truncated", "100 of 200 bytes"), Rejected("ID_2", "", "not_dicom", "")])


def _write(store: Path) -> dict[str, str]:
    about = write_rejected(store, ROWS)
    write_table(pd.DataFrame({"ID": ["ID_3"]}), store / "index.parquet", about)
    return about


def test_what_was_written_is_read_and_its_text_is_plain(tmp_path: Path) -> None:
    _write(tmp_path)
    pd.testing.assert_frame_equal(read_rejected(tmp_path, ["truncated", "not_dicom"]), ROWS, check_dtype=False)
    assert rejected_file(tmp_path).read_text() == ROWS.to_csv(index=False)


def test_every_flipped_bit_is_named(tmp_path: Path) -> None:
    _write(tmp_path)
    path = rejected_file(tmp_path)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 3):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"rejected.csv") as refused:
            read_rejected(tmp_path)
        assert refused.value.step == "preprocess"


def test_an_index_of_an_earlier_version_says_nothing_about_it(tmp_path: Path) -> None:
    _write(tmp_path)
    path = rejected_file(tmp_path)
    path.write_text(path.read_text().replace("100", "101"))
    with pytest.raises(UserError, match=r"rejected.csv is not as it was written"):
        read_rejected(tmp_path)
    write_table(pd.DataFrame({"ID": ["ID_3"]}), tmp_path / "index.parquet")
    assert read_rejected(tmp_path)["message"][0] == "101 of 200 bytes"


def test_no_rejected_slices(tmp_path: Path) -> None:
    about = write_rejected(tmp_path, ROWS[:0])
    write_table(pd.DataFrame({"ID": ["ID_3"]}), tmp_path / "index.parquet", about)
    assert len(read_rejected(tmp_path, ["truncated"])) == 0
