import pytest

from src.progress import progress


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), desc="counting", unit="slice")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("counting: 3 of 3 in ")


def test_nothing_on_other_processes(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), desc="counting", shown=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_plain_lines_where_a_terminal_is_dumb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert list(progress(range(3), desc="counting")) == [0, 1, 2]
    assert capsys.readouterr().err.startswith("counting: 3 of 3 in ")
