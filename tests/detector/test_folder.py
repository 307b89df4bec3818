import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.config import Config
from src.detector import Detector
from src.detector import folder as folder_module
from src.detector.collect import Selection, collect
from src.detector.folder import DISTRIBUTION, Network, read_folder, write_folder
from src.ensemble.recipe import Recipe
from src.errors import UserError
from tests.detector.conftest import Trained, export

MEMBERS = [f"{name} epoch {epoch}" for name in ("se_resnext50_32x4d", "adjacent") for epoch in (2, 3)]
MEMBERS += ["se_resnext50_32x4d+gru epoch 2", "adjacent+gru epoch 2"]


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A detector to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "detector"))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_it_holds_what_the_documents_say(folder: Path) -> None:
    names = ["adjacent", "adjacent+gru", "se_resnext50_32x4d", "se_resnext50_32x4d+gru", "training_distribution"]
    assert sorted(_files(folder)) == sorted(
        ["MODEL_CARD.md", "detector.json", *(f"weights/{name}.safetensors" for name in names)]
    )
    record = json.loads((folder / "detector.json").read_text())
    assert record["format"] == 1
    assert len(record["files"]) == 6
    for name, sha256 in record["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256


def test_the_same_submission_gives_the_same_bytes_wherever_it_lies(
    trained: Trained, folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "moved"
    shutil.copytree(trained.layout.root, root, symlinks=True)
    layout = type(trained.layout)(root)
    manifest = root / "manifest.json"  # of a root that has moved: what it names is no longer there
    text = json.dumps(_unsealed(folder.parent / "manifest.json"))
    manifest.write_text(text.replace(str(trained.layout.root.resolve()), str(tmp_path / "gone")))
    shutil.copy(folder.parent / "out_of_fold.parquet", root)
    assert _files(export(manifest, layout, tmp_path / "again")) == _files(folder)


def _unsealed(manifest: Path) -> dict:  # as one of an earlier version
    return {key: value for key, value in json.loads(manifest.read_text()).items() if key != "checksum"}


def test_a_flipped_bit_anywhere_is_named(copy: Path) -> None:
    random = np.random.default_rng(0)
    for name, data in _files(copy).items():
        places = random.integers(len(data), size=150 if name == "detector.json" else 6)
        for place in [0, *places, len(data) - 1]:
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(random.integers(8))
            (copy / name).write_bytes(damaged)
            with pytest.raises(UserError, match=rf"{re.escape(name)}.* (damaged|newer|older|no detector)") as caught:
                Detector.load(copy)
            assert "\n" not in str(caught.value)
        (copy / name).write_bytes(data)
    Detector.load(copy)


def test_what_is_missing_or_cut_is_named(copy: Path, tmp_path: Path) -> None:
    for name, data in _files(copy).items():
        (copy / name).unlink()
        with pytest.raises(UserError, match=f"lacks {re.escape(name)}"):
            Detector.load(copy)
        (copy / name).write_bytes(data[:-10])
        with pytest.raises(UserError, match=rf"{re.escape(name)} is damaged"):
            Detector.load(copy)
        (copy / name).write_bytes(data)
    with pytest.raises(UserError, match=r"nowhere is no detector: it lacks detector.json"):
        Detector.load(tmp_path / "nowhere")


def _signed(copy: Path, **changes: object) -> None:
    """Change detector.json and give it a checksum that fits."""
    path = copy / "detector.json"
    record = json.loads(path.read_text()) | changes | {"sha256": "0" * 64}
    text = json.dumps(record)
    path.write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest(), 1))


def test_other_formats_and_what_is_nonsense_are_one_line(copy: Path) -> None:
    _signed(copy, format=3)
    with pytest.raises(UserError, match="a detector of a newer format, 3; this version reads formats 1 and 2"):
        Detector.load(copy)
    _signed(copy, format=1, members=[{"name": "x"}])
    with pytest.raises(UserError, match="no detector of this version"):
        Detector.load(copy)
    (copy / "detector.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"detector.json is damaged"):
        Detector.load(copy)


def test_every_file_that_is_used_is_checked(copy: Path) -> None:
    record = json.loads((copy / "detector.json").read_text())
    files = {name: sha256 for name, sha256 in record["files"].items() if "adjacent." not in name}
    _signed(copy, files=files)
    with pytest.raises(UserError, match="lists other files than the detector has"):
        Detector.load(copy)
    _signed(copy, files=record["files"] | {"../secret": "0"})
    with pytest.raises(UserError, match="lists other files than the detector has"):
        Detector.load(copy)
    moved = {"../../outside/adjacent" if name == "adjacent" else name: c for name, c in record["classifiers"].items()}
    _signed(copy, files=record["files"], classifiers=moved)
    with pytest.raises(UserError, match=r"no detector of this version .*no file names: ../../outside/adjacent"):
        Detector.load(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"blend": "rank-mean", "smooth_mm": 0.0, "calibrate": "none"}},
        {"recipe": {"blend": "mean", "smooth_mm": 0.0, "calibrate": "beta"}},
        {"numbers": {}},
        {"numbers": {"weights": {}, "smooth_mm": 0.0}},
        {"numbers": {"weights": dict.fromkeys(MEMBERS, 0.01), "smooth_mm": 0.0}},
        {"numbers": {"weights": dict.fromkeys(MEMBERS, 1 / 6), "smooth_mm": -1.0}},
        {"classifiers": []},
        {"members": []},
        {"sequences": {}},
        {"format": float("inf")},
        {"files": []},
    ],
)
def test_a_record_of_nonsense_is_one_line(copy: Path, changes: dict[str, object]) -> None:
    _signed(copy, **changes)
    with pytest.raises(UserError) as caught:
        Detector.load(copy)
    assert "\n" not in str(caught.value)


def test_nothing_but_a_detector_is_replaced(folder: Path, tmp_path: Path) -> None:
    description, weights = read_folder(folder)
    (tmp_path / "model/fold0").mkdir(parents=True)
    (tmp_path / "model/fold0/epoch3.safetensors").write_text("weights")
    (tmp_path / "file").write_text("text")
    for place in ("model", "file", "model/fold0/epoch3.safetensors"):
        with pytest.raises(UserError, match="is there and is no detector"):
            write_folder(tmp_path / place, description, weights, "card")
    assert (tmp_path / "model/fold0/epoch3.safetensors").read_text() == "weights"


def test_a_link_to_a_folder_stays_a_link(folder: Path, copy: Path, tmp_path: Path) -> None:
    description, weights = read_folder(folder)
    link = tmp_path / "link"
    link.symlink_to(copy)
    for _ in range(2):
        write_folder(link, description, weights, (folder / "MODEL_CARD.md").read_text())
        assert link.is_symlink()
        assert _files(copy) == _files(folder)


def test_what_safetensors_says_of_a_full_disk_is_an_error_of_the_machine(folder: Path, tmp_path: Path) -> None:
    _, weights = read_folder(folder)
    with pytest.raises(OSError, match="safetensors"):
        folder_module._save(weights["adjacent"], tmp_path / "nowhere" / "adjacent.safetensors")


def test_networks_of_two_seeds_are_told_apart() -> None:
    one, other = (Network("x", 0, 3, checkpoint, "d") for checkpoint in ("a" * 64, "b" * 64))
    assert one.prefix != other.prefix


def test_a_failed_write_leaves_the_previous_detector(folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _files(copy)
    description, weights = read_folder(folder)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src.detector.folder.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_folder(copy, description, weights, "card")
    assert _files(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["detector"]


def test_a_write_that_was_killed_is_cleaned_up(folder: Path, copy: Path) -> None:
    before = _files(copy)
    description, weights = read_folder(folder)
    copy.rename(copy.with_name(".detector.previous"))  # killed between the two renames
    (copy.parent / ".detector.01234567.partial").mkdir()
    write_folder(copy, description, weights, (folder / "MODEL_CARD.md").read_text())
    assert _files(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["detector"]


@pytest.mark.parametrize(
    ("selection", "networks"),
    [
        (Selection(folds=[1]), {("se_resnext50_32x4d", 1, 2), ("se_resnext50_32x4d", 1, 3)}),
        (Selection(epochs=[3]), {("se_resnext50_32x4d", 0, 3), ("se_resnext50_32x4d", 1, 3)}),
        (Selection(networks=1), {("se_resnext50_32x4d", 0, 3)}),
        (Selection(networks=3), {("se_resnext50_32x4d", fold, epoch) for fold, epoch in ((0, 3), (0, 2), (1, 3))}),
    ],
)
def test_a_smaller_detector(
    trained: Trained, tmp_path: Path, selection: Selection, networks: set[tuple[str, int, int]]
) -> None:
    manifest = trained.submit("cnn", Recipe(), ["se_resnext50_32x4d"])
    folder = export(manifest, trained.layout, tmp_path / "small", selection)
    description = Detector.load(folder).description
    assert {(each.name, each.fold, each.epoch) for each in description.networks} == networks
    assert sum(description.numbers["weights"].values()) == pytest.approx(1)
    card = (folder / "MODEL_CARD.md").read_text()
    assert f"**This is a smaller detector**: {len(networks)} of the submission's 4 networks" in card


def test_one_fold_of_the_second_stage(trained: Trained, tmp_path: Path) -> None:
    manifest = trained.submit("last", Recipe())
    description, weights = collect(manifest, trained.layout, Selection(folds=[0]))
    assert [(each.name, each.fold) for each in description.networks] == [
        ("se_resnext50_32x4d", 0),
        ("se_resnext50_32x4d+gru", 0),
        ("adjacent", 0),
        ("adjacent+gru", 0),
    ]
    assert set(weights) == {each.name for each in description.networks} | {DISTRIBUTION}
    with pytest.raises(UserError, match="is of fold 4; it has fold 0 epoch 3, fold 1 epoch 3"):
        collect(manifest, trained.layout, Selection(folds=[4]))


def test_checkpoints_that_changed_or_went_are_named(trained: Trained, tmp_path: Path) -> None:
    root = tmp_path / "root"
    manifest = trained.submit("last", Recipe())
    shutil.copytree(trained.layout.root, root, symlinks=True)
    layout, manifest = type(trained.layout)(root), root / "submission" / manifest.name
    manifest.write_text(json.dumps(_unsealed(manifest)).replace(str(trained.layout.root.resolve()), str(root)))
    checkpoint = layout.fold("adjacent", 1).checkpoint(3)
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"adjacent/fold1/epoch3.safetensors has changed since the submission was made"):
        collect(manifest, layout, Selection())
    checkpoint.unlink()
    with pytest.raises(UserError, match=r"adjacent/fold1/epoch3.safetensors is missing; the submission was made"):
        collect(manifest, layout, Selection())


def test_a_copy_of_the_root_is_what_is_exported(trained: Trained, tmp_path: Path) -> None:
    first = tmp_path / "first"
    manifest = trained.submit("cnn", Recipe())
    shutil.copytree(trained.layout.root, first, symlinks=True)
    (first / "submission" / manifest.name).write_text(
        json.dumps(_unsealed(manifest)).replace(str(trained.layout.root.resolve()), str(first))
    )
    second = shutil.copytree(first, tmp_path / "second", symlinks=True)
    layout = type(trained.layout)(first)
    layout.fold("adjacent", 0).checkpoint(3).write_bytes(b"trained again")
    description, _ = collect(second / "submission" / manifest.name, type(layout)(second), Selection())
    assert len(description.networks) == 8


def test_controls_of_experiments_are_no_detectors(trained: Trained, tmp_path: Path) -> None:
    root = tmp_path / "root"
    manifest = trained.submit("last", Recipe())
    shutil.copytree(trained.layout.root, root, symlinks=True)
    layout = type(trained.layout)(root)
    conf = layout.fold("adjacent+gru", 0).conf
    conf.write_text(conf.read_text().replace("order: z", "order: shuffled"))
    with pytest.raises(UserError, match="order shuffled is the control of an experiment"):
        collect(root / "submission" / manifest.name, layout, Selection())


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 9},
        {"numbers": {}},
        {"predictions": []},
        {"recipe": {"blend": "mean", "other": 1}},
        {"submission": {}},
    ],
)
def test_a_damaged_manifest_is_one_line(trained: Trained, tmp_path: Path, changes: dict[str, object]) -> None:
    record = _unsealed(trained.submit("cnn", Recipe())) | changes
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is no manifest of a submission"):
        collect(tmp_path / "manifest.json", trained.layout, Selection())


def test_out_of_fold_predictions_of_another_submission_are_refused(trained: Trained, tmp_path: Path) -> None:
    trained.submit("all", Recipe())
    shutil.copy(trained.layout.submission.with_name("out_of_fold.parquet"), tmp_path)
    shutil.copy(trained.submit("cnn", Recipe()), tmp_path / "manifest.json")
    with pytest.raises(UserError, match=r"out_of_fold.parquet is missing or of another submission") as caught:
        collect(tmp_path / "manifest.json", trained.layout, Selection())
    assert caught.value.step == "ensemble"


def test_no_manifest_and_predictions_from_elsewhere(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest.json is missing") as caught:
        collect(tmp_path / "manifest.json", trained.layout, Selection())
    assert caught.value.step == "ensemble"
    manifest = trained.submit("cnn", Recipe())
    record = _unsealed(manifest)
    del record["predictions"][0]["checkpoint"]
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="was not made by a network of this pipeline"):
        collect(tmp_path / "manifest.json", trained.layout, Selection())
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is no manifest of a submission"):
        collect(tmp_path / "manifest.json", trained.layout, Selection())


def test_the_card_says_what_is_known(folder: Path) -> None:
    card = (folder / "MODEL_CARD.md").read_text()
    for words in (
        "Not for clinical use",
        "| se_resnext50_32x4d epoch 2 | (0, 2), (1, 2) |",
        "`adjacent`: timm/test_efficientnet, 64 x 64 pixels, 3 slices at a time",
        "smoothing along z 5 mm",
        "| study, 95 % sensitivity |",
        "| constant prior |",
    ):
        assert words in card, card
    record = json.loads((folder / "detector.json").read_text())
    youden = record["operating_points"]["slice"]["youden"]["any"]
    assert f"| slice, Youden | {youden:.4f} |" in card
    assert "smaller detector" not in card


def test_without_out_of_fold_predictions_the_card_says_so(trained: Trained, tmp_path: Path) -> None:
    manifest = trained.submit("cnn", Recipe())
    record = _unsealed(manifest) | {"out_of_fold": None}
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    folder = export(tmp_path / "manifest.json", trained.layout, tmp_path / "detector")
    assert Detector.load(folder).operating_points == {}
    assert "None: they come from out-of-fold predictions." in (folder / "MODEL_CARD.md").read_text()


def test_confs_come_back_as_they_were(folder: Path, trained: Trained) -> None:
    found, none = read_folder(folder)[0].classifiers, {"workers": 0, "save_steps": 0}  # which only training needs
    expected: dict[str, Config] = {each.name: each.model_copy(update=none) for each in trained.classifiers}
    assert found == expected
