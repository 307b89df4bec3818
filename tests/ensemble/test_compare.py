import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import t as student_t

from src.ensemble.compare import Candidates, differences, main, read_candidates, report
from src.ensemble.recipe import Recipe
from src.errors import UserError
from src.evaluate.out_of_fold import Truth
from src.evaluate.score import log_loss_by_label, weighted_log_loss
from src.files.layout import Layout
from src.files.predictions import write_predictions
from src.files.provenance import Provenance
from src.files.slice_positions import SlicePositions
from src.files.tables import write_table
from src.labels import LABELS

N, PATIENTS = 240, 24
RNG = np.random.default_rng(0)
TARGETS = (RNG.random((N, 6)) < 0.3).astype(np.uint8)
PATIENT = np.repeat(np.arange(PATIENTS), N // PATIENTS)
TRUTH = Truth(pd.Index([f"ID_{i:x}" for i in range(N)]), TARGETS, PATIENT, PATIENT, PATIENT % 2)


def _guess(noise: float, seed: int = 1) -> np.ndarray:
    guess: np.ndarray = expit(2 * TARGETS - 1.5 + noise * np.random.default_rng(seed).normal(size=TARGETS.shape))
    return guess


def test_differences_are_paired() -> None:
    candidates = Candidates(TRUTH, {"bag": _guess(1), "better": _guess(0.5), "best": _guess(0.1)})
    found = differences(candidates).set_index(["candidate", "than", "label"])
    assert [pair[:2] for pair in found.index[::7]] == [("better", "bag"), ("best", "bag"), ("best", "better")]
    left_out = []
    for patient in range(PATIENTS):  # the plain way: score both without each patient
        rest = patient != PATIENT
        pair = [weighted_log_loss(TARGETS[rest], each[rest]) for each in (_guess(0.5), _guess(1))]
        left_out.append(100 * (pair[0] - pair[1]) / pair[1])
    weighted = found.loc[("better", "bag", "weighted")]
    error = np.sqrt((PATIENTS - 1) * np.var(left_out))
    expected = student_t.interval(0.95, PATIENTS - 1, loc=weighted["percent"], scale=error)
    np.testing.assert_allclose([weighted["low"], weighted["high"]], expected, rtol=1e-9)
    for j, label in enumerate(LABELS):
        one, other = (log_loss_by_label(TARGETS, candidates.probabilities[name])[j] for name in ("best", "bag"))
        assert found.loc[("best", "bag", label), "percent"] == pytest.approx(100 * (one - other) / other)
    assert (found.loc[(slice(None), slice(None), "weighted"), "high"] < 0).all()


def test_the_report_is_markdown() -> None:
    candidates = Candidates(TRUTH, {"bag": _guess(1), "better": _guess(0.5)})
    text = report(candidates, differences(candidates))
    assert f"| bag | {weighted_log_loss(TARGETS, _guess(1)):.4f} | " in text
    assert re.search(r"^\| better than bag \| -\d+\.\d \[-\d+\.\d, [+-]\d+\.\d\] \|", text, re.MULTILINE)
    widths = {line.count("|") for line in text.splitlines() if line}
    assert widths == {9}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    table = pd.DataFrame(TARGETS, columns=list(LABELS)).assign(
        ID=TRUTH.ids,
        StudyInstanceUID=[f"s{i}" for i in PATIENT],
        SeriesInstanceUID=[f"s{i}" for i in PATIENT],
        z=np.tile(np.arange(N // PATIENTS) * 5.0, PATIENTS),
    )
    write_table(table, layout.table("train"))
    folds = pd.DataFrame({"ID": TRUTH.ids, "PatientID": [f"p{i}" for i in PATIENT], "fold": TRUTH.folds})
    write_table(folds, layout.folds)
    for conf, guess in (("cnn", _guess(1)), ("gru", _guess(0.3)), ("other", _guess(0.9, 2))):
        for fold in (0, 1):
            rows = TRUTH.folds == fold
            order = np.random.default_rng(fold).permutation(rows.sum())
            provenance = Provenance(
                conf=conf, fold=fold, epoch=3, checkpoint=conf, split="valid", slices="s", tta="Identity"
            )
            path = layout.fold(conf, fold).predictions("valid", 3)
            write_predictions(path, TRUTH.ids[rows][order], guess[rows][order], provenance)
    return layout


def _files(layout: Layout, *confs: str, folds: Sequence[int] = (0, 1)) -> list[Path]:
    return [layout.fold(conf, fold).predictions("valid", 3) for conf in confs for fold in folds]


def test_candidates_are_bags_of_the_same_slices(layout: Layout) -> None:
    files = {"bag": _files(layout, "cnn", "other"), "gru": _files(layout, "gru")}
    found = read_candidates(files, ["bag"], layout)
    assert list(found.probabilities) == ["bag", "bag, smoothed", "gru"]
    rows = TRUTH.ids.get_indexer(found.truth.ids)
    expected = (_guess(1) + _guess(0.9, 2)) / 2
    np.testing.assert_allclose(found.probabilities["bag"], expected[rows], atol=1e-6)
    np.testing.assert_allclose(found.probabilities["gru"], _guess(0.3)[rows], atol=1e-6)
    z, series = np.tile(np.arange(N // PATIENTS) * 5.0, PATIENTS)[rows], PATIENT[rows]
    smoothed = Recipe(smooth_mm=None).cross_fit(
        np.stack([_guess(1)[rows], _guess(0.9, 2)[rows]]), TARGETS[rows], SlicePositions(series, z), TRUTH.folds[rows]
    )
    np.testing.assert_allclose(found.probabilities["bag, smoothed"], smoothed, atol=1e-5)
    with pytest.raises(UserError, match=r"gru and bag predict different slices, such as ID_.* predict the same folds"):
        read_candidates({"bag": files["bag"], "gru": _files(layout, "gru", folds=[1])}, [], layout)


def test_the_command(layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["compare", "--root", str(layout.root), *map(str, arguments)])
        main()

    candidates = ["--candidate", "bag", *_files(layout, "cnn"), "--candidate", "gru", *_files(layout, "gru")]
    run(*candidates, "--smooth", "bag", "--output", layout.root / "d.csv")
    said = capsys.readouterr().out
    assert f"{N} slices of {PATIENTS} patients, out of fold" in said
    assert "| gru than bag, smoothed | " in said
    assert len(pd.read_csv(layout.root / "d.csv")) == 3 * 7
    with pytest.raises(UserError, match="--smooth: no candidate is called gur"):
        run(*candidates, "--smooth", "gur")
    with pytest.raises(UserError, match="--candidate: expected different names"):
        run(*candidates, "--candidate", "gru", *_files(layout, "cnn"))
    with pytest.raises(UserError, match="--candidate: expected different names, each with a prediction file"):
        run("--candidate", "gru")
