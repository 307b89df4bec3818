import pytest

from src.errors import Stopped, UserError, first_few, run_command


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


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(_raise(ZeroDivisionError()))


def test_first_few() -> None:
    assert first_few(["a", "b"]) == "a, b"
    assert first_few(range(5)) == "0, 1, 2 and 2 more"
