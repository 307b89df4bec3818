import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.ensemble.manifest import read_record
from src.errors import UserError
from src.files.layout import Layout
from src.files.tables import write_table
from src.labels import LABELS
from src.report.errors import errors
from src.report.make import MOST_BYTES, Report, inline_markdown, main, make_report, write_report

Own = Callable[..., Layout]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&$\\frac{1}{0}$"


class _Page(HTMLParser):
    """The cells of each table, and the key figures, as a reader sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.keys: dict[tuple[str, int, str], str] = {}
        self._rows: list[list[str]] | None = None
        self._cell: list[str] | None = None
        self._key: tuple[str, int, str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table":
            self._rows = self.tables.setdefault(given["data-table"] or "", []) if "data-table" in given else None
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._rows is not None:
            self._cell = []
        elif "data-cell" in given:
            name, row, column = (given["data-cell"] or "").split()
            self._key, self._cell = (name, int(row), column), []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._rows is not None and self._cell is not None:
            self._rows[-1].append("".join(self._cell))
            self._cell = None
        elif tag == "dd" and self._key is not None and self._cell is not None:
            self.keys[self._key], self._key, self._cell = "".join(self._cell), None, None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def _is_of(text: str, values: "pd.Series[object]") -> bool:
    """Whether what a cell says is in a row of the CSV: a text, or numbers that are rounded, perhaps in percent."""
    plain = text.replace("\u2212", "-").replace("\u202f", "")
    if text == "\u2013":
        return bool(values.isna().any() or (values == "").any())
    if plain in {str(value) for value in values} | {f"{value:.0f}" for value in values if isinstance(value, float)}:
        return True
    numbers = [float(value) for value in values if isinstance(value, int | float | np.number) and np.isfinite(value)]
    found = re.findall(r"-?\d+\.?\d*", plain)
    assert found, text
    for each in found:
        unit = 10.0 ** -len(each.partition(".")[2])
        near = [abs(float(each) - factor * value) <= 0.501 * unit for value in numbers for factor in (1, 100)]
        if not any(near):
            return False
    return True


def _csv(report: Report, name: str) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(report.files[f"{name}.csv"]), keep_default_na=True)


def test_every_number_in_the_page_is_in_a_csv(report: Report) -> None:
    page = _Page(report.page)
    assert len(page.tables) > 15
    for name, (_, *rows) in page.tables.items():
        frame = _csv(report, name)
        assert len(rows) == len(frame), name
        for cells, (_, values) in zip(rows, frame.iterrows(), strict=True):
            for cell in cells:
                assert _is_of(cell, values), (name, cell, values.to_dict())
    assert len(page.keys) >= 8
    for (name, row, column), text in page.keys.items():
        frame = _csv(report, name)
        ends = frame.loc[row, [each for each in frame if each == column or each.startswith(f"{column}_")]]
        assert _is_of(text, ends), (name, column, text)


def test_generated_heads_are_called_so(report: Report, own: Own) -> None:
    assert "<strong>These head CTs are generated.</strong>" in report.page
    assert "head CTs are generated" not in make_report(own("cache/folds.parquet")).page  # whose input is not there


def test_a_number_that_is_in_no_csv_is_found() -> None:
    row = pd.Series({"auc": 0.91449, "low": 0.8, "name": "any"})
    assert _is_of("0.914 [0.80]", row)
    assert _is_of("91.4", row)
    assert not _is_of("0.915", row)


def test_the_losses_are_those_of_the_manifest(report: Report, complete: Layout) -> None:
    said = read_record(complete.submission.with_name("manifest.json"))["out_of_fold"]
    frame = _csv(report, "log_loss").set_index("what")
    for name in ("x epoch 3", "y epoch 3", "constant prior"):
        for label in ("weighted", *LABELS):
            assert frame.loc[name, label] == pytest.approx(said[name][label], rel=1e-6), (name, label)
    # the submission's file holds float32
    assert frame.loc["bag", "weighted"] == pytest.approx(said["mean, consistent"]["weighted"], rel=1e-4)
    assert (frame["weighted_low"] < frame["weighted"]).all()


def test_the_worst_cases_are_the_worst(report: Report, complete: Layout) -> None:
    bag = pd.read_parquet(complete.submission.with_name("out_of_fold.parquet")).set_index("ID")
    train = pd.read_parquet(complete.table("train")).set_index("ID")
    found = _csv(report, "worst_cases")
    points = _csv(report, "operating_points")
    youden = points[(points["level"] == "slice") & (points["point"] == "youden")].set_index("label")["threshold"]
    assert len(found) > 4
    for label in LABELS:
        positive = bag[label][train.loc[bag.index, label] == 1]
        negative = bag[label].drop(positive.index)
        of_label = found[found["label"] == label].groupby("kind").first()
        if positive.min() < youden[label]:
            assert of_label.loc["false negative", "ID"] == positive.idxmin()
        else:
            assert "false negative" not in of_label.index
        if negative.max() >= youden[label]:
            assert of_label.loc["false positive", "ID"] == negative.idxmax()
        else:
            assert "false positive" not in of_label.index
        for _, rows in found[found["label"] == label].groupby("kind"):
            assert not rows["SeriesInstanceUID"].duplicated().any()


def test_each_part_that_is_absent_says_what_fills_it(own: Own, tmp_path: Path) -> None:
    empty = make_report(Layout(tmp_path)).page
    for script in ("preprocess", "train", "ensemble"):
        assert f"sh bin/{script}.sh" in empty
    layout = own("cache")
    assert [each for each in make_report(layout).missing if "preprocessed" in each or "stored" in each] == []
    headers = own("cache/train.parquet").root  # of the same folder
    (headers / "cache/audit.json").unlink()
    (headers / "cache/train/index.parquet").unlink()
    missing = make_report(layout).missing
    assert "The data have not been audited yet." in missing
    assert "No training slices have been stored yet." in missing
    assert "No network has been trained for an epoch yet." in missing


def test_after_training_alone_there_are_curves(own: Own) -> None:
    layout = own("cache", "model/x/fold0/metrics.csv")
    report = make_report(layout)
    assert {"training_x_loss.svg", "training_x_lr.png", "epochs.csv"} <= {*report.files}
    assert "No submission has been made and scored out of fold yet." in report.missing
    assert "log_loss.csv" not in report.files


def test_large_slices_are_made_smaller_until_the_page_is_of_bounded_size(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.report.make.SECTIONS", (errors,))
    monkeypatch.setattr("src.report.make._OF_CASES", 200_000)
    report = make_report(own("cache", "model", "submission"))
    assert len(report.page.encode()) < MOST_BYTES
    assert "Shown at reduced resolution" in report.page
    packed = re.findall(r'data-slice="\d+">([^<]*)<', report.page)
    assert sum(map(len, packed)) < 200_000


def test_hostile_names_stay_text(own: Own) -> None:
    layout = own("cache", "model", "submission")
    for path in (layout.table("train"), layout.folds):
        table = pd.read_parquet(path)
        table["PatientID"] = table["PatientID"].where(table["PatientID"] == "", table["PatientID"] + HOSTILE)
        write_table(table, path)
    manifest = layout.submission.with_name("manifest.json")
    manifest.unlink()  # of other folds
    (layout.root / "model/x").rename(layout.root / "model" / HOSTILE.replace("/", ""))
    page = make_report(layout).page
    assert "<script>alert" not in page
    assert "onerror=alert" not in re.sub(r"&lt;img src=x onerror=alert", "", page)
    assert "&lt;script&gt;alert(1)" in page


def test_files_of_others_are_not_replaced(report: Report, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    write_report(report, output)
    assert {path.name for path in (tmp_path / "report").iterdir()} == {*report.files}
    (tmp_path / "report/gone.csv").write_text("of an earlier one")
    write_report(report, output)
    assert not (tmp_path / "report/gone.csv").exists()
    (tmp_path / "report/thesis.docx").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.docx; expected tables and charts alone"):
        write_report(report, output)
    assert (tmp_path / "report/thesis.docx").read_text() == "years of work"


def test_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for arguments, words in (
        (["--root", str(tmp_path)], "holds no input, cache, model or submission"),
        (["--root", str(tmp_path), "--output", "x.pdf"], r"expected a name that ends with \.html"),
    ):
        monkeypatch.setattr("sys.argv", ["make", *arguments])
        with pytest.raises(UserError, match=words):
            main()


def test_markdown_of_the_card_is_escaped() -> None:
    assert inline_markdown("a **b** `c**<d>` <e>") == "a <strong>b</strong> <code>c**&lt;d&gt;</code> &lt;e&gt;"
