from pathlib import Path

import pytest

from src.errors import UserError
from src.files.layout import Layout
from src.files.timing import Timing, read_timings, record_timing, timed


def test_what_is_recorded_is_read_in_the_order_of_stages(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert read_timings(layout) == []
    first = Timing("predict", "net fold 0 valid, checkpoints 1 to 2 of 2", 61, 1.5)
    record_timing(layout.timings, first)
    record_timing(layout.timings, Timing("headers", "train", 10, 0.5))
    with timed(layout.timings, "sequence", "a/b", 5):
        pass
    with timed(layout.timings, "sequence", "nothing", 0):
        pass
    assert [each.stage for each in read_timings(layout)] == ["headers", "predict", "sequence"]
    assert read_timings(layout)[1] == first


def test_the_first_time_of_as_many_slices_counts(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for slices, seconds in ((10, 2.0), (10, 0.1), (11, 3.0)):
        record_timing(layout.timings, Timing("store", "train", slices, seconds))
        expected = 2.0 if slices == 10 else 3.0
        assert [each.seconds for each in read_timings(layout)] == [expected]


def test_a_failure_is_not_timed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with pytest.raises(ZeroDivisionError), timed(layout.timings, "predict", "net", 3):
        1 / 0  # noqa: B018
    assert read_timings(layout) == []


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    record_timing(layout.timings, Timing("store", "train", 10, 2.0))
    (path,) = layout.timings.iterdir()
    for text in ("{", "[]", '{"stage": "store", "what": "x", "slices": -1, "seconds": 1}', ""):
        path.write_text(text)
        with pytest.raises(UserError, match="is no record of a time; delete it"):
            read_timings(layout)


def test_where_nothing_can_be_written_it_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file")
    record_timing(Layout(tmp_path).timings, Timing("store", "train", 10, 2.0))
    assert "is not recorded" in caplog.text
