"""Pictures of the most suspicious slices, for a PACS: two windows or a window and its map, with a caption burned in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from src.ct.windows import THREE_WINDOWS, apply_windows
from src.dicom.description import Description
from src.dicom.key_image import opposite, patient_orientation
from src.dicom.results import WARNING

PANEL = 512  # pixels along each side of a panel, of which there are two
_HEAD, _FOOT, _MARGIN = 40, 172, 16
_WHITE, _GREY, _YELLOW = (255, 255, 255), (170, 170, 170), (255, 210, 60)  # RGB
_MOST_OPAQUE = 0.6  # of a map, where it is 1: the slice stays visible


@dataclass(frozen=True)
class Picture:
    """What is drawn of a slice. hu: (rows, columns); spacing: (of rows, of columns) in mm, NaN where it is unknown.

    map: (size, size) class activation map over the slice padded to a square, in [0, 1], or None; probabilities: of the
    slice by label; called: the labels that the study is called positive for, or None where there is no threshold.
    """

    image: Description
    hu: np.ndarray
    map: np.ndarray | None
    place: str
    probabilities: Mapping[str, float]
    study: Mapping[str, float]
    called: Mapping[str, bool | None]
    notes: Sequence[str]


def draw(picture: Picture) -> np.ndarray:
    """Draw a key image: (rows, columns, 3) uint8 RGB, the same for the same picture."""
    brain, blood, _ = np.moveaxis(apply_windows(picture.hu, THREE_WINDOWS), -1, 0)
    left = _panel(brain, picture.image)
    if picture.map is None:
        right, title = _panel(blood, picture.image), "Blood window: level 80, width 200 HU"
    else:
        right = _panel(brain, picture.image, picture.map)
        title = "Class activation map of any (coarse; not an outline)"
    canvas = np.zeros((_HEAD + PANEL + _FOOT, 2 * PANEL, 3), dtype=np.uint8)
    canvas[_HEAD : _HEAD + PANEL] = np.hstack([left, right])
    _text(canvas, "Brain window: level 40, width 80 HU", (_MARGIN, _HEAD + 22), 0.5, _WHITE)
    _text(canvas, title, (PANEL + _MARGIN, _HEAD + 22), 0.5, _WHITE)
    if picture.map is not None:
        _scale(canvas)
    _centred(canvas, WARNING, 28, 0.8, _YELLOW)
    _caption(canvas, picture)
    return canvas


def _panel(shown: np.ndarray, image: Description, map_: np.ndarray | None = None) -> np.ndarray:
    """A slice in [0, 1], (rows, columns), in a square panel at its true proportions, with its map and its sides."""
    side = max(shown.shape)
    top, left = (side - shown.shape[0]) // 2, (side - shown.shape[1]) // 2
    square = np.zeros((side, side), dtype=np.float32)
    square[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    grey = cv2.resize(square, (PANEL, PANEL), interpolation=cv2.INTER_AREA if side > PANEL else cv2.INTER_LINEAR)
    colour = np.repeat(grey[..., None] * 255, 3, axis=2)
    if map_ is not None:
        values = np.clip(cv2.resize(map_.astype(np.float32), (PANEL, PANEL), interpolation=cv2.INTER_LINEAR), 0, 1)
        opacity = (_MOST_OPAQUE * values)[..., None]
        colour = (1 - opacity) * colour + opacity * _heat(values)
    panel = _proportioned(np.rint(colour).astype(np.uint8), image)
    for letter, place in _sides(image):
        _text(panel, letter, place, 0.6, _YELLOW)
    return panel


def _proportioned(panel: np.ndarray, image: Description) -> np.ndarray:
    """Shrink a panel along one axis where pixels are not square; air fills what becomes free."""
    header = image.header
    ratio = 1.0 if header is None else header.row_spacing / header.column_spacing
    if not np.isfinite(ratio) or abs(ratio - 1) < 0.01:
        return panel
    rows = max(1, round(PANEL * min(1.0, ratio)))
    columns = max(1, round(PANEL * min(1.0, 1 / ratio)))
    whole = np.zeros_like(panel)
    top, left = (PANEL - rows) // 2, (PANEL - columns) // 2
    whole[top : top + rows, left : left + columns] = cv2.resize(panel, (columns, rows), interpolation=cv2.INTER_AREA)
    return whole


def _sides(image: Description) -> list[tuple[str, tuple[int, int]]]:
    """Letters of the patient's sides and where they stand in a panel: none where the orientation is not known."""
    orientation = patient_orientation(image)
    if not orientation:
        return []
    right, bottom = orientation
    middle = PANEL // 2
    return [
        (right, (PANEL - 24, middle)),
        (opposite(right), (10, middle)),
        (bottom, (middle - 6, PANEL - 12)),
        (opposite(bottom), (middle - 6, 48)),
    ]


def _heat(values: np.ndarray) -> np.ndarray:
    """Colours of probabilities: (...) in [0, 1] -> (..., 3) RGB, from dark blue to yellow, none of which tissue has."""
    levels = np.rint(values * 255).astype(np.uint8)
    coloured: np.ndarray = cv2.applyColorMap(levels.reshape(levels.shape[0], -1), cv2.COLORMAP_PLASMA)
    return coloured[..., ::-1].reshape(*values.shape, 3).astype(np.float32)


def _scale(canvas: np.ndarray) -> None:
    """Draw what the colours of a map mean: a bar from 0 to 1 at the right edge."""
    height, width, top = 160, 12, _HEAD + PANEL - 190
    bar = _heat(np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], width, axis=1))
    left = 2 * PANEL - 52
    canvas[top : top + height, left : left + width] = bar.astype(np.uint8)
    cv2.rectangle(canvas, (left - 1, top - 1), (left + width, top + height), _GREY, 1)
    for value, row in (("1", top + 10), ("0", top + height)):
        _text(canvas, value, (left + width + 6, row), 0.45, _WHITE)


def _caption(canvas: np.ndarray, picture: Picture) -> None:
    row = _HEAD + PANEL + 26
    _text(canvas, picture.place, (_MARGIN, row), 0.55, _WHITE)
    for i, (label, probability) in enumerate(picture.probabilities.items()):
        column, line = divmod(i, 3)
        at = (_MARGIN + column * (PANEL - 8), row + 28 + 24 * line)
        called = {True: "above threshold", False: "below threshold", None: "no threshold"}[picture.called[label]]
        words = f"{label}: slice {probability:.3f}, study {picture.study[label]:.3f} ({called})"
        _text(canvas, words, at, 0.5, _YELLOW if picture.called[label] else _WHITE)
    for i, note in enumerate(picture.notes):
        _text(canvas, note, (_MARGIN, row + 106 + 20 * i), 0.43, _GREY)


def _text(canvas: np.ndarray, words: str, at: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    """Write words with a dark edge, which stay readable over anything. at: (x, y) of their left end, on the line."""
    plain = words.encode("ascii", "replace").decode()  # OpenCV's letters are no others
    for edge, thickness in (((0, 0, 0), 3), (colour, 1)):
        cv2.putText(canvas, plain, at, cv2.FONT_HERSHEY_SIMPLEX, size, edge, thickness, cv2.LINE_AA)


def _centred(canvas: np.ndarray, words: str, row: int, size: float, colour: tuple[int, int, int]) -> None:
    (width, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    _text(canvas, words, ((canvas.shape[1] - width) // 2, row), size, colour)
