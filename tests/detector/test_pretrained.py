import shutil
from pathlib import Path

import pytest

from src.classify.weights import without_folder
from src.detector import Detector
from src.detector import folder as folder_module
from src.detector.card import model_card
from src.detector.collect import Selection, collect
from src.detector.folder import find_detector, write_folder
from src.ensemble.recipe import Recipe
from src.files.layout import Layout
from tests.detector.conftest import Trained


def test_the_detector_in_the_box_reads_where_none_was_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    layout = Layout(tmp_path)
    monkeypatch.setattr(folder_module, "PRETRAINED", tmp_path / "none")
    assert find_detector(layout) == layout.detector  # whose absence is then an error
    monkeypatch.setattr(folder_module, "PRETRAINED", folder)
    assert find_detector(layout) == folder
    assert "is not there; the detector in the box reads" in caplog.text
    shutil.copytree(folder, layout.detector)
    assert find_detector(layout) == layout.detector


def test_what_is_said_about_a_detector_is_in_its_card_and_its_first_line_a_notice(
    trained: Trained, tmp_path: Path
) -> None:
    manifest = trained.submit("cnn", Recipe())
    description, weights = collect(manifest, trained.layout, Selection(folds=[0]), "Seen: nothing.\n\nMore of it.")
    write_folder(tmp_path / "detector", description, weights, model_card(description))
    found = Detector.load(tmp_path / "detector").description
    assert found.notice == "Seen: nothing."
    assert (
        "## About this detector\n\nSeen: nothing.\n\nMore of it." in (tmp_path / "detector/MODEL_CARD.md").read_text()
    )
    assert collect(manifest, trained.layout, Selection(folds=[0]))[0].notice == ""


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("imagenet", "imagenet"),
        ("none", "none"),
        ("/home/jane/w.pth", "w.pth"),
        ("in-order:/x/w.pth", "in-order:w.pth"),
    ],
)
def test_a_detector_says_nothing_of_the_folders_of_its_makers(given: str, kept: str) -> None:
    assert without_folder(given) == kept
