from pathlib import Path

import pandas as pd
import pytest
from torch.utils.data import DataLoader, Dataset

from src.errors import Stopped, UserError, first_few, run_command
from src.files.tables import write_table


def _raise(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("two\nlines"), 2, "error: two lines\n"),
        (Stopped("go on later"), 75, "stopped: go on later\n"),
        (KeyboardInterrupt(), 130, "stopped: interrupted\n"),
    ],
)
def test_ends_with_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(_raise(error))
    assert ended.value.code == status
    assert capsys.readouterr().err == line


def test_a_mistake_met_by_a_loaders_worker_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        list(DataLoader(_Missing(), num_workers=1))

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: ID_1 is missing\n"


class _Missing(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise UserError("ID_1 is missing")


def test_what_the_machine_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: write_table(pd.DataFrame({"ID": []}), tmp_path / "file" / "t.parquet"))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(_raise(ZeroDivisionError()))


def test_first_few() -> None:
    assert first_few(["a", "b"]) == "a, b"
    assert first_few(range(5)) == "0, 1, 2 and 2 more"
