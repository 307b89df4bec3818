"""Values from outside through the commands: each ends in one line that names the file, with status 2, or is used."""

import io
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from src import errors
from src.files import tables
from src.files.columns import COLUMNS
from src.files.layout import Layout
from src.files.tables import write_arrow

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in this process: (exit status, the last line on stderr). A mistake is told in one line."""

    def _run(module: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            errors.run_command(import_module(module).main)
        told = [line for line in capsys.readouterr().err.splitlines() if "left" not in line]  # but for progress
        if ended.value.code:
            assert len(told) == 1, told
            assert len(told[0]) < 1500
        return int(ended.value.code or 0), told[-1] if told else ""

    return _run


@pytest.fixture
def own(preprocessed: Layout, tmp_path: Path) -> Layout:
    """The tiny competition's cache, to write to."""
    shutil.copytree(preprocessed.root / "cache", tmp_path / "own/cache")
    (tmp_path / "own/input").symlink_to(preprocessed.root / "input")
    return Layout(tmp_path / "own")


QUICK = ["network.architecture=timm/test_efficientnet", "network.pretrained=none", "image_size=32", "batch_size=8"]
QUICK += ["workers=0", "epochs=1"]


def commands(layout: Layout, conf: Path = Path("conf/se_resnext50_32x4d.yaml")) -> dict[str, Sequence[object]]:
    table, store = layout.table("train"), layout.store("train")
    return {
        "folds": (
            "src.preprocess.make_folds",
            "--table",
            table,
            "--store",
            store,
            "--output",
            layout.folds,
        ),
        "audit": ("src.preprocess.audit", "--root", layout.root),
        "verify": ("src.preprocess.create_dataset", "--verify", "--output", store, "--engine", "serial"),
        "store": ("src.preprocess.create_dataset", "--table", table, "--output", store, "--engine", "serial"),
        "look": ("src.classify.train", conf, "--fold", 0, "--root", layout.root, "--dry-run", "--set", *QUICK),
        "train": ("src.classify.train", conf, "--fold", 0, "--root", layout.root, "--set", *QUICK),
    }


# the readers of each table, and the columns that they read of it
TABLES = {
    "cache/train.parquet": {
        "store": ["ID", "SeriesInstanceUID", "z_index", "rows", "columns", "path", "member_size", "reason", "message"],
        "audit": ["ID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "z", "position_x", "any"],
        "folds": ["ID", "PatientID", "any", "subdural"],
        "look": ["ID", "epidural"],
    },
    "cache/train/index.parquet": {
        "verify": ["ID", "file", "position", "rows", "pixel_hash", "brain_share", "checksum", "file_crc32"],
        "folds": ["ID", "pixel_hash", "brain_share"],
        "look": ["ID", "file", "position", "checksum"],
    },
    "cache/folds.parquet": {"look": ["ID", "PatientID", "fold"], "audit": ["ID", "fold"]},
}
CASES = [
    (table, command, column) for table, by in TABLES.items() for command, columns in by.items() for column in columns
]


def _columns(column: str, count: int) -> dict[str, pa.Array]:
    """What the column may not hold."""
    expected = COLUMNS[column]
    wrong = {
        "lists": pa.array([[1]] * count),
        "bytes": pa.array([b"\xff"] * count),
        "times": pa.array([np.datetime64("2020-01-01", "ns")] * count),
    }
    if not expected.gaps:
        kind = pa.large_string() if expected.kind == "text" else pa.int64()
        wrong["nothing"] = pa.nulls(count, kind)
    if expected.kind == "text":
        wrong["numbers"] = pa.array(range(count))
        wrong["no UTF-8"] = pa.array([b"\xff"] * count).view(pa.string())
        wrong["long"] = pa.array(["0" * 100_000] * count)
    else:
        wrong["text"] = pa.array(["1"] * count)
        if np.isfinite(expected.high):
            wrong["below"] = pa.array([-7] * count)
            wrong["not a number"] = pa.array([float("nan")] * count, from_pandas=False)
    if expected.once:
        wrong["one twice"] = pa.array(["ID_1"] * count)
    if expected.pattern:
        wrong["another form"] = pa.array([f"/{i} Z" for i in range(count)])
    return wrong


@pytest.mark.parametrize(("table", "command", "column"), CASES)
def test_what_a_column_may_not_hold(own: Layout, run: Run, table: str, command: str, column: str) -> None:
    whole = tables.read_arrow(own.root / table, step="")
    at = whole.column_names.index(column)
    for what, values in _columns(column, len(whole)).items():
        write_arrow(whole.set_column(at, column, values), own.root / table)
        status, line = run(*commands(own)[command])
        assert status == 2, (what, line)
        assert table in line, (what, line)
    write_arrow(whole.append_column(column, whole[column]), own.root / table)
    status, line = run(*commands(own)[command])
    assert (status, f"{table} has columns twice: {column}" in line) == (2, True)


HEADER = "ID,path,reason,message\n"
REJECTED = {
    "a column too few": "ID,path,reason\n",
    "a column twice": "ID,ID,path,reason,message\n",
    "a column too many": "ID,path,reason,message,more\n",
    "a slice twice": f"{HEADER}ID_1,a,truncated,b\nID_1,a,truncated,b\n",
    "no slice": f"{HEADER},a,truncated,b\n",
    "no id": f"{HEADER}x,a,truncated,b\n",
    "no reason": f"{HEADER}ID_1,a,,b\n",
    "an unknown reason": f"{HEADER}ID_1,a,whatever,b\n",
    "another slice": f"{HEADER}ID_1,a,truncated,b\n",
    "nothing": "",
    "brackets": "[" * 10_000,
    "no text": b"\xff\xfe\x80",
    "zeros": b"\0" * 100,
}


@pytest.mark.parametrize("command", ["folds", "audit", "verify"])
def test_rejected_slices_that_are_something_else(own: Layout, run: Run, command: str) -> None:
    path = own.store("train") / "rejected.csv"
    for what, text in REJECTED.items():
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        status, line = run(*commands(own)[command])
        assert (status, "rejected.csv" in line) == (2, True), (what, line)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
DOCUMENTS = {
    "a list": "- 1\n- 2\n",
    "a text": "hello\n",
    "a number": "5\n",
    "nested": "[" * 10_000,
    "nested sections": "a: " + "{a: " * 10_000,
    "no text": b"\xff\xfe\x80",
    "a large value": "a: " + "x" * 5_000_000,
    "many values": "a: [" + "1," * 11_000 + "]\n",
    "aliases": BOMB,
    "itself": "a: &a [*a]\n",
    "a large number": f"epochs: {'9' * 5000}\n",
    "a number of many bits": f"epochs: {'9' * 400}\n",
    "no date": "epochs: 2001-99-99\n",
    "no truth": "epochs: !!bool x\n",
    "no number": "epochs: !!int ''\n",
    "half a character": 'network: {architecture: "\\ud800"}\n',
    "a number as key": "1: 2\n",
    "a list as key": "? [1]\n: 2\n",
    "code": "!!python/object/apply:os.system [true]\n",
}


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_that_are_something_else(own: Layout, run: Run, tmp_path: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    conf, folder = tmp_path / "conf.yaml", own.fold("se_resnext50_32x4d", 0)
    conf.write_bytes(data)
    status, line = run(*commands(own, conf)["look"])
    assert (status, str(conf) in line) == (2, True), line
    folder.path.mkdir(parents=True)
    folder.versions.write_bytes(data)
    status, line = run(*commands(own)["train"])
    assert (status, str(folder.versions) in line) == (2, True), line
    folder.conf.write_bytes(data)
    folder.checkpoint(1).touch()  # something that was trained
    status, line = run(*commands(own)["train"])
    assert (status, str(folder.conf) in line) == (2, True), line


@pytest.mark.parametrize(
    "override",
    [
        *("seed=18446744073709551616", "neighbours=1000", "scheduler.gamma=1e300", "label_weights.any=1e300"),
        *(f"{key}=1{'0' * 40}" for key in ("scheduler.warmup_steps", "accumulate", "save_steps", "optimizer.lr")),
        *("scheduler.milestones=[10000000000000000]", "window_jitter.level=1e300", "optimizer.clip_norm=1e300"),
        f"windows=[{','.join(['{level: 1, width: 2}'] * 1000)}]",
        "windows=[{level: 1e300, width: 1}]",
        f"network.architecture={'x' * 5000}",
        f"{'x' * 5000}=1",
        f"epochs={'[' * 5000}",
    ],
    ids=lambda text: text[:30],
)
def test_numbers_of_a_conf_have_limits(preprocessed: Layout, run: Run, override: str) -> None:
    status, line = run(*commands(preprocessed)["look"], override)
    assert status == 2, line


def _zip(path: Path, size: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("stage_2_train.csv", b"0" * size)


LIMIT = 1 << 20
CSV: dict[str, tuple[Callable[[Path], object], str]] = {
    "columns": (lambda path: path.write_text("ID,Label" + ",x" * 100_000 + "\n"), "a line of more than"),
    "short columns": (lambda path: path.write_text("ID,Label" + "," * 2000 + "\n"), "has 2002 columns"),
    "a long field": (lambda path: path.write_text("ID,Label\nID_1_any," + "0" * 500_000 + "\n"), "a line of more than"),
    "a long quoted field": (lambda path: path.write_text('ID,Label\nID_1_any,"' + "0" * 500_000), "a line of more"),
    "bytes": (lambda path: (path.touch(), os.truncate(path, 100 << 30)), "has 107374182400 bytes"),
    "rows": (lambda path: path.write_text("ID,Label\n" + ",\n" * 5000), "has 5001 rows"),
    "a column twice": (lambda path: path.write_text("ID,ID,Label\na,b,0\n"), "the columns ID more than once"),
    "no text": (lambda path: path.write_bytes(b"ID,Label\n\xff\xfe,0\n"), "not a readable CSV"),
    "no text in the header": (lambda path: path.write_bytes(b"ID,Label,\xff\n"), "not a readable CSV"),
}


@pytest.mark.parametrize("kind", CSV)
def test_csv_files_have_limits(
    tmp_path: Path, run: Run, preprocessed: Layout, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make, words = CSV[kind]
    monkeypatch.setattr(tables, "MOST_ROWS", 5000)
    make(tmp_path / "t.csv")
    images = preprocessed.root / "input/stage_2_train"
    status, line = run(
        *("src.preprocess.dicom_to_dataframe", "--csv", tmp_path / "t.csv", "--images", images),
        *("--output", tmp_path / "t.parquet"),
    )
    assert (status, "t.csv" in line, words in line) == (2, True, True), line


def test_a_csv_in_a_zip_that_inflates(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _zip(tmp_path / "k.zip", LIMIT + 1)
    monkeypatch.setattr("src.preprocess.unpack_csv.MOST_CSV_BYTES", LIMIT)
    status, line = run("src.preprocess.unpack_csv", "--archive", tmp_path / "k.zip", "--output", tmp_path / "out")
    assert (status, f"inflate to {LIMIT + 1} bytes" in line) == (2, True)
    assert not (tmp_path / "out").exists()


def test_tables_have_limits(own: Layout, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, words in (("MOST_ROWS", "rows; expected 3"), ("MOST_COLUMNS", "columns; expected 3")):
        with monkeypatch.context() as patch:
            patch.setattr(tables, name, 3)
            status, line = run(*commands(own)["store"])
        assert (status, words in line) == (2, True), line


@pytest.mark.parametrize("how", ["itself", "through a link", "from within"])
def test_names_that_are_no_utf8(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/x\xffy"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the disk has UTF-8 names alone")
    (tmp_path / "link").symlink_to(folder)
    root = {"itself": folder, "through a link": tmp_path / "link", "from within": Path()}[how]
    monkeypatch.chdir(folder)
    for module in ("src.preprocess.audit", "src.detector.export", "src.evaluate.summary"):
        status, line = run(module, "--root", root, *(["x"] if "summary" in module else []))
        assert (status, re.search(r"x\\xffy(/x)?: expected a name in UTF-8", line) is not None) == (2, True), line
    assert not list(folder.iterdir())


def test_arrays_that_are_something_else(tmp_path: Path) -> None:
    from src.errors import UserError
    from src.files.arrays import read_arrays
    from src.files.checksum import UNSEALED, write_sealed

    def header(text: str) -> bytes:
        about = text.encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + len(about).to_bytes(2, "little") + about

    whole = io.BytesIO()
    np.save(whole, np.arange(6.0).reshape(2, 3))
    wrong = {
        "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }"),
        "another type": header("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1), }") + bytes(8),
        "another order": header("{'descr': '<f8', 'fortran_order': True, 'shape': (1, 1), }") + bytes(8),
        "other dimensions": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }") + bytes(8),
        "too many": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }") + bytes(8),
        "less than none": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }") + bytes(8),
        "nested": header("(" * 5000),
        "half": whole.getvalue()[:-8],
        "a longer header than file": whole.getvalue()[:20],
        "nothing": b"",
    }
    for data in wrong.values():
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            made = io.BytesIO()
            with zipfile.ZipFile(made, "w", method) as archive:
                archive.writestr("a.npy", data)
                archive.comment = UNSEALED.encode()
            write_sealed(tmp_path / "a.npz", made.getvalue())
            with pytest.raises(UserError, match=r"a.npz does not hold the arrays a"):
                read_arrays(tmp_path / "a.npz", {"a": ("float", 2)})


def test_the_last_row_of_a_table_is_read_as_the_first(own: Layout) -> None:
    """What is checked as Arrow is what pandas then has."""
    frame = tables.read_table(own.table("train"), ["ID", "any", "z"], step="")
    pd.testing.assert_frame_equal(frame, pd.read_parquet(own.table("train")))
