from pathlib import Path

import pytest

from src.files.atomic import replacing


def test_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.csv"
    with replacing(target) as temporary:
        temporary.write_text("a")
        assert not target.exists()
        assert temporary.suffix == ".csv"
    assert target.read_text() == "a"
    assert list(target.parent.iterdir()) == [target]


def _fail_half_way(target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("before")
    with pytest.raises(ZeroDivisionError):
        _fail_half_way(target)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]
