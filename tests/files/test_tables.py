from pathlib import Path

import pandas as pd
import pytest

from src.errors import UserError
from src.files.tables import read_csv, read_table, write_table


def test_round_trip(tmp_path: Path) -> None:
    table = pd.DataFrame({"ID": ["ID_1"], "z": [1.5]})
    write_table(table, tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet", ["ID"], made_by="a test"), table)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t.parquet is missing; bin/x.sh makes it"):
        read_table(tmp_path / "t.parquet", ["ID"], made_by="bin/x.sh")
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="not a readable parquet table"):
        read_table(tmp_path / "t.parquet", ["ID"], made_by="bin/x.sh")
    write_table(pd.DataFrame({"z": [1]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="lacks the columns ID; it has z"):
        read_table(tmp_path / "t.parquet", ["ID"], made_by="bin/x.sh")
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(UserError, match="not a readable CSV"):
        read_csv(tmp_path / "t.csv", ["ID"])
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="lacks the columns ID"):
        read_csv(tmp_path / "t.csv", ["ID"])
