import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from src.errors import UserError
from src.evaluate.operating_point import youden_threshold
from src.evaluate.out_of_fold import read_truth
from src.evaluate.score import log_loss_by_label, weighted_log_loss
from src.evaluate.study import Cases
from src.evaluate.summary import WITH_INTERVAL, main, read_sources, statistics
from src.files.layout import Layout
from src.files.predictions import write_predictions
from src.files.provenance import Provenance
from src.files.tables import write_table
from src.labels import LABELS

SLICES, STUDIES, PATIENTS = 600, 60, 40

Run = Callable[..., pd.DataFrame]


@pytest.fixture
def table() -> pd.DataFrame:
    """Training slices in three folds. Nobody has an epidural bleed."""
    rng = np.random.default_rng(0)
    study = np.repeat(np.arange(STUDIES), SLICES // STUDIES)
    labels = (rng.random((STUDIES, 6)) < 0.5)[study] & (rng.random((SLICES, 6)) < 0.4)
    labels[:, 1] = False
    labels[:, 0] = labels[:, 1:].any(axis=1)
    return pd.DataFrame(
        {
            "ID": [f"ID_{i:09x}" for i in rng.permutation(SLICES)],
            "PatientID": [f"p{i % PATIENTS}" for i in study],
            "StudyInstanceUID": [f"s{i}" for i in study],
            "fold": study % PATIENTS % 3,
            **dict(zip(LABELS, labels.T.astype(np.uint8), strict=True)),
        }
    )


@pytest.fixture
def root(tmp_path: Path, table: pd.DataFrame) -> Path:
    """A folder with tables and the out-of-fold predictions of the conf `net`, epochs 2 and 3, each in its own order."""
    layout = Layout(tmp_path)
    write_table(table.drop(columns="fold"), layout.table("train"))
    write_table(table[["ID", "PatientID", "fold"]].sample(frac=1, random_state=0), layout.folds)
    for epoch in (2, 3):
        for fold, rows in table.sample(frac=1, random_state=epoch).groupby("fold"):
            predicted = _predict(rows, seed=10 * epoch + int(fold))
            write_predictions(layout.fold("net", fold).predictions("valid", epoch), rows["ID"], predicted,
                              _provenance(fold=fold, epoch=epoch))  # fmt: skip
    conf = tmp_path / "net.yaml"
    conf.write_text(f"base: {Path(__file__).parents[2] / 'conf' / 'base.yaml'}\n")
    with conf.open("a") as file:
        file.write("network: {architecture: efficientnet-b2}\noptimizer: {lr: 1.0e-4}\n")
    return tmp_path


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command on that folder, in this process: what it writes."""

    def _run(*arguments: str | Path) -> pd.DataFrame:
        line = ["summary", *map(str, arguments), "--root", str(root)]
        monkeypatch.setattr(sys, "argv", line)
        main()
        return pd.read_csv(root / "submission" / "summary.csv").set_index(["level", "label", "metric"]).sort_index()

    return _run


def _predict(rows: pd.DataFrame, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(len(rows), 6))
    return 1 / (1 + np.exp(1 - 2.0 * rows[list(LABELS)].to_numpy() - noise))


def _provenance(**recorded: object) -> Provenance:
    usual = {"conf": "net", "fold": 0, "epoch": 2, "checkpoint": "x", "split": "valid", "slices": "x", "tta": "x"}
    return Provenance(**(usual | recorded))  # type: ignore[arg-type]


def _write_plain(path: Path, ids: pd.Series, probabilities: np.ndarray) -> Path:
    """A file from elsewhere: it does not record its provenance, nor the folds."""
    frame = pd.DataFrame(probabilities.astype(np.float32), columns=list(LABELS))
    write_table(frame.assign(ID=ids.to_numpy()), path)
    return path


def _mean_prediction(root: Path, table: pd.DataFrame) -> np.ndarray:
    """The mean of epochs 2 and 3 in the table's order: (N, 6)."""
    frames = [pd.read_parquet(path) for path in (root / "model" / "net").glob("fold*/valid_epoch*.parquet")]
    means = pd.concat(frames).astype(dict.fromkeys(LABELS, np.float64)).groupby("ID").mean()
    return means.loc[table["ID"], list(LABELS)].to_numpy()


def test_a_conf_is_scored_by_the_mean_of_its_epochs(run: Run, root: Path, table: pd.DataFrame) -> None:
    found = run(root / "net.yaml")
    slices = pd.DataFrame(_mean_prediction(root, table), columns=list(LABELS))
    slices = slices.join(table[list(LABELS)], suffixes=("", "_true")).assign(
        study=table["StudyInstanceUID"], fold=table["fold"]
    )
    for level, cases in (("slice", slices), ("study", slices.groupby("study").max())):
        for label in ("any", "subdural"):
            true, predicted = cases[f"{label}_true"].to_numpy(), cases[label].to_numpy()
            of = found.loc[level, label]
            assert (of["n"] == len(cases)).all()
            assert (of["positives"] == true.sum()).all()
            assert of.loc["auc", "value"] == pytest.approx(roc_auc_score(true, predicted))
            assert of.loc["average_precision", "value"] == pytest.approx(average_precision_score(true, predicted))
            assert of.loc["brier_score", "value"] == pytest.approx(brier_score_loss(true, predicted))
            called = np.zeros(len(cases), dtype=bool)
            for fold in range(3):
                other = (cases["fold"] != fold).to_numpy()
                threshold = youden_threshold(true[other], predicted[other])
                called[~other] = predicted[~other] >= threshold
                assert of.loc[f"threshold_fold{fold}", "value"] == pytest.approx(threshold)
            sensitivity, specificity = called[true == 1].mean(), (~called)[true == 0].mean()
            assert of.loc["sensitivity", "value"] == pytest.approx(sensitivity)
            assert of.loc["specificity", "value"] == pytest.approx(specificity)
            expected = 0.05 * sensitivity / (0.05 * sensitivity + 0.95 * (1 - specificity))
            assert of.loc["ppv_at_0.05", "value"] == pytest.approx(expected)
    pair = table[list(LABELS)].to_numpy(), slices[list(LABELS)].to_numpy()
    losses = found.xs("log_loss", level="metric").loc["slice", "value"]
    np.testing.assert_allclose(losses[list(LABELS)], log_loss_by_label(*pair), rtol=1e-9)
    assert losses["weighted"] == pytest.approx(weighted_log_loss(*pair))
    ranged = found[found["low"].notna()]
    assert ((ranged["low"] <= ranged["value"]) & (ranged["value"] <= ranged["high"])).all()
    assert (ranged["low"] < ranged["high"]).all()
    defined = found["value"].notna() & ~found.index.get_level_values("metric").str.contains("threshold|calibration")
    assert (found["low"].notna() == defined).all()
    assert {"auc", "npv_at_0.15", "log_loss"} <= set(ranged.index.get_level_values("metric"))


def test_its_probabilities_are_rounded_nowhere_on_the_way(run: Run, root: Path, table: pd.DataFrame) -> None:
    # a file from elsewhere of the same predictions, one epoch, in another order: the same to the last digit
    found = run(root / "net.yaml", "--epochs", "3")
    files = [pd.read_parquet(path) for path in (root / "model" / "net").glob("fold*/valid_epoch3.parquet")]
    rows = pd.concat(files).sample(frac=1, random_state=5)
    bag = _write_plain(root / "bag.parquet", rows["ID"], rows[list(LABELS)].to_numpy())
    pd.testing.assert_frame_equal(found, run(bag), rtol=1e-12)


def test_a_label_that_nobody_has(run: Run, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(root / "net.yaml").loc["slice", "epidural"]
    defined = found.index[found["value"].notna()].tolist()
    assert defined == ["brier_score", "calibration_error", "log_loss"]
    assert found.loc["auc", ["low", "high"]].isna().all()
    assert "nan" not in capsys.readouterr().out


def test_folds_that_are_not_predicted_are_not_scored(
    run: Run, root: Path, table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    for epoch in (2, 3):
        for fold in (0, 2):
            Layout(root).fold("net", fold).predictions("valid", epoch).unlink()
    scored = table[table["fold"] == 1]
    found = run(root / "net.yaml")
    said = capsys.readouterr().out
    patients = scored["PatientID"].nunique()
    assert f"{len(scored)} of {SLICES} training slices scored, of {patients} patients; folds: 1; " in said
    assert "their thresholds come from other folds, and there are none" in said
    assert (found.loc["slice", "n"] == len(scored)).all()
    rates = found[found.index.get_level_values("metric").str.contains("sensitivity|specificity|[np]pv|threshold")]
    assert rates["value"].isna().all()
    assert found.loc[("study", "any", "auc"), ["low", "high"]].notna().all()


def test_rates_of_one_are_not_sure(run: Run, root: Path, table: pd.DataFrame) -> None:
    # nobody errs: all rates, predictive values and areas are 1
    bag = _write_plain(root / "bag.parquet", table["ID"], 0.1 + 0.8 * table[list(LABELS)].to_numpy())
    found = run(bag)
    for level, slices in (("slice", table), ("study", table.groupby("StudyInstanceUID").max())):
        of = found.loc[level, "subdural"]
        counts = slices.groupby("PatientID")["subdural"].agg(["sum", "size"])
        effective = [n.sum() ** 2 / (n**2).sum() for n in (counts["sum"], counts["size"] - counts["sum"])]
        low = dict(zip(("sensitivity", "specificity"), [n / (n + 1.959964**2) for n in effective], strict=True))
        for metric, expected in low.items():
            assert of.loc[metric, ["value", "high"]].tolist() == [1, 1]
            assert of.loc[metric, "low"] == pytest.approx(expected, rel=1e-6)
        assert of.loc["auc", ["value", "high"]].tolist() == [1, 1]
        assert of.loc["auc", "low"] in [pytest.approx(each, rel=1e-6) for each in low.values()]
        # as sure as both rates are at their worst: Bayes' theorem
        hits, alarms = 0.05 * low["sensitivity"], 0.95 * (1 - low["specificity"])
        assert of.loc["ppv_at_0.05", "value"] == 1
        assert of.loc["ppv_at_0.05", "low"] == pytest.approx(hits / (hits + alarms), rel=1e-6)


def test_a_probability_at_the_threshold_is_a_yes() -> None:
    targets = np.tile([[1], [1], [0], [0]], 6)
    probabilities = np.tile([[0.5], [0.4], [0.5], [0.4]], 6)
    cases = Cases(targets, probabilities, np.arange(4), np.zeros(4))
    thresholds = np.array([[0.5] * 6, [0.5] * 6, [0.5] * 6, [np.nan] * 6])  # the last has none
    found = dict(zip(WITH_INTERVAL, statistics(cases, thresholds)(np.ones(4, dtype=int)), strict=True))
    np.testing.assert_array_equal(found["sensitivity"], 0.5)
    np.testing.assert_array_equal(found["specificity"], 0)


def _unknown_slice(root: Path) -> list[Path]:
    return [_write_plain(root / "bag.parquet", pd.Series(["ID_f", "ID_e"]), np.full((2, 6), 0.5))]


def _fold_of_another_epoch(root: Path) -> list[Path]:
    Layout(root).fold("net", 1).predictions("valid", 3).unlink()
    return [root / "net.yaml"]


def _trained_on(root: Path) -> list[Path]:
    rows = pd.read_parquet(Layout(root).folds)
    path = root / "valid.parquet"
    write_predictions(
        path, rows["ID"][rows["fold"] == 1], np.full((sum(rows["fold"] == 1), 6), 0.5), _provenance(fold=0)
    )
    return [path]


def _test_set(root: Path) -> list[Path]:
    write_predictions(root / "test.parquet", pd.Series(["ID_1"]), np.full((1, 6), 0.5), _provenance(split="test"))
    return [root / "test.parquet"]


def _twice(root: Path) -> list[Path]:
    return [root / "net.yaml", Layout(root).fold("net", 1).predictions("valid", 2)]


def _other_conf(root: Path) -> list[Path]:
    return [(root / "net.yaml").rename(root / "other.yaml")]


def _nothing(root: Path) -> list[Path]:
    return [_write_plain(root / "bag.parquet", pd.Series([], dtype="str"), np.zeros((0, 6)))]


@pytest.mark.parametrize(
    ("mistake", "words", "step"),
    [
        (_unknown_slice, "2 predicted slices are not among the training slices: ID_f, ID_e", None),
        (
            _fold_of_another_epoch,
            r"slices are in fewer prediction files than others \(1 and not 2\): ID_.* and \d+ more",
            None,
        ),
        (_trained_on, "its network was trained on them: ID_", "train"),
        (_test_set, "is of the test set", None),
        (_twice, "given more than once: .*valid_epoch2.parquet", None),
        (_other_conf, "other.yaml: no out-of-fold predictions of epochs 2, 3 in .*model/other$", "predict"),
        (_nothing, "no slices are predicted in .*bag.parquet", None),
        (lambda root: [root / "missing.parquet"], "missing.parquet is missing", "predict"),
        (lambda root: [root / "missing.yaml"], "missing.yaml is missing", None),
    ],
)
def test_mistakes_are_named(
    run: Run, root: Path, mistake: Callable[[Path], list[Path]], words: str, step: str | None
) -> None:
    with pytest.raises(UserError, match=words) as error:
        run(*mistake(root))
    assert error.value.step == step
    assert not (root / "submission").exists()


def test_the_command(root: Path, repository: Path, python: str) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [python, "-m", "src.evaluate.summary", *arguments]
        return subprocess.run(line, cwd=repository, capture_output=True, text=True)

    output = root / "elsewhere" / "table.csv"
    done = command(str(root / "net.yaml"), "--root", str(root), "--output", str(output))
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(output)
    assert found.columns.tolist() == ["level", "label", "metric", "value", "low", "high", "n", "positives"]
    assert not found.duplicated(["level", "label", "metric"]).any()
    auc = found.set_index(["level", "label", "metric"]).loc[("study", "subdural", "auc")]
    assert f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]" in done.stdout
    assert f"{SLICES} of {SLICES} training slices scored, of {PATIENTS} patients" in done.stdout
    assert max(map(len, done.stdout.splitlines()[3:])) <= 120

    mistaken = command("missing.parquet", "--root", str(root))
    assert (mistaken.returncode, mistaken.stdout) == (2, "")
    assert mistaken.stderr == "error: missing.parquet is missing; run sh bin/predict.sh\n"


def _bag_with_folds(root: Path, table: pd.DataFrame) -> Path:
    """What a submission leaves: the out-of-fold predictions of its bag, and the folds that they were made with."""
    path, folds = root / "submission" / "out_of_fold.parquet", read_truth(Layout(root)).folds_fingerprint
    write_predictions(path, table["ID"], _mean_prediction(root, table), folds=folds)
    return path


def _renumber_folds(root: Path) -> None:
    folds = pd.read_parquet(Layout(root).folds)
    write_table(folds.assign(fold=(folds["fold"] + 1) % 3), Layout(root).folds)


def test_a_bag_of_other_folds_is_refused(root: Path, table: pd.DataFrame, repository: Path, python: str) -> None:
    bag = _bag_with_folds(root, table)
    (found,) = read_sources([bag], Layout(root), [2, 3], read_truth(Layout(root)))
    assert found.folds == read_truth(Layout(root)).folds_fingerprint
    _renumber_folds(root)
    with pytest.raises(UserError, match=r"out_of_fold.parquet was made with other folds than there are now") as error:
        read_sources([bag], Layout(root), [2, 3], read_truth(Layout(root)))
    assert error.value.step == "ensemble"

    line = [python, "-m", "src.evaluate.summary", str(bag), "--root", str(root)]
    refused = subprocess.run(line, cwd=repository, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"error: {bag} was made with other folds than there are now; run sh bin/ensemble.sh\n"
    assert not (root / "submission" / "summary.csv").exists()


def test_a_bag_of_these_folds_is_scored(run: Run, root: Path, table: pd.DataFrame) -> None:
    found, of_bag = run(root / "net.yaml"), run(_bag_with_folds(root, table))
    columns = ["n", "positives"]
    pd.testing.assert_frame_equal(of_bag[columns], found[columns])
    np.testing.assert_allclose(of_bag["value"], found["value"], rtol=1e-5)
