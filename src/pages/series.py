"""The page of one series: its slices to scroll through, and what a detector says about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.ct.windows import THREE_WINDOWS, Window
from src.labels import LABELS
from src.pages.codec import pack_maps, pack_pixels, reduce_pixels
from src.pages.html import render

MOST_BYTES = 80_000_000  # of a page; a browser takes a minute to open one that is much larger
WINDOWS = {
    **dict(zip(("Brain", "Blood", "Soft tissue"), THREE_WINDOWS, strict=True)),
    "Bone": Window(level=600, width=2800),
    "Stroke": Window(level=40, width=40),
}
LABEL_NAMES = {label: label.capitalize() for label in LABELS} | {"any": "Any hemorrhage"}
_SAMPLE = 16  # slices that tell how well a series compresses
_DIRECTIONS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}


@dataclass(frozen=True)
class SeriesView:
    """What the page of a series of S slices shows, in z order. Raises ValueError where lengths or ranges disagree.

    title: plain text. details: facts for the reader, such as ("Slice thickness", "5.0 mm"). warnings: a plain
    sentence each. pixels: S arrays (rows, columns) of int16 HU of the whole range; sizes may differ. spacings: mm
    between the centres of rows and of columns of each slice, NaN where unknown. z: (S,) mm, NaN where unknown. ids:
    (S,) SOPInstanceUIDs. probabilities: (S, 6) in the order of LABELS. study: (6,). Both are None while they are being
    computed. thresholds: of the study's probabilities, by label; absent or None where there is none. maps: (S, 6, rows,
    columns) in [0, 1], class activation maps over the network's square input, in which a slice is centred, or None.
    maps_note: why there are none, or how to read them. sides: what of the patient lies at the left, right, top and
    bottom of the image, of "LRAPHF", for example "RLAP"; empty where that is not known.
    """

    title: str
    details: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    pixels: Sequence[np.ndarray]
    spacings: Sequence[tuple[float, float]]
    z: np.ndarray
    ids: Sequence[str]
    probabilities: np.ndarray | None
    study: np.ndarray | None
    thresholds: Mapping[str, float | None]
    maps: np.ndarray | None
    maps_note: str
    sides: str = ""

    def __post_init__(self) -> None:
        n = len(self.pixels)
        if not n or not n == len(self.spacings) == len(self.z) == len(self.ids):
            lengths = f"{n} slices, {len(self.spacings)} spacings, {len(self.z)} positions and {len(self.ids)} ids"
            raise ValueError(f"{lengths}; expected one each, and a slice at least")
        for name, values, shape in (
            *([] if self.probabilities is None else [("probabilities", self.probabilities, (n, len(LABELS)))]),
            *([] if self.study is None else [("study", self.study, (len(LABELS),))]),
            *([] if self.maps is None else [("maps", self.maps, (n, len(LABELS), *self.maps.shape[2:4]))]),
        ):
            if values.shape != shape or not (values.size and (values >= 0).all() and (values <= 1).all()):
                raise ValueError(f"{name} of shape {values.shape}; expected {shape} in [0, 1]")
        for slice_id, pixels in zip(self.ids, self.pixels, strict=True):
            if pixels.ndim != 2 or not pixels.size or pixels.dtype != np.int16:
                raise ValueError(f"slice {slice_id}: {pixels.dtype} of shape {pixels.shape}; expected 2D int16 HU")
        if self.sides and (len(self.sides) != 4 or not set(self.sides) <= set(_DIRECTIONS)):
            raise ValueError(f"sides {self.sides!r}; expected four letters of {''.join(_DIRECTIONS)}, or none")


def series_page(view: SeriesView) -> str:
    """The whole HTML document. It needs no network and opens from disk.

    Where it would have more than some MOST_BYTES, the displayed matrix is halved, as often as needed, and the page says
    so.
    """
    return render("series.html", scripts=["series.js"], title=view.title, **series_values(view))


def series_values(view: SeriesView, most_bytes: int | None = None) -> dict[str, Any]:
    """What the template whole_series.html shows of a series; `most_bytes`, MOST_BYTES by default, bounds its size.

    A page of several series includes the template once for each, within `{% with %}`.
    """
    factor = _reduction(view.pixels, MOST_BYTES if most_bytes is None else most_bytes)
    shown = [reduce_pixels(pixels, factor) for pixels in view.pixels]
    return {
        **_described(view, shown, factor),
        "slices": [pack_pixels(pixels) for pixels in shown],
        "maps": [] if view.maps is None else [pack_maps(maps) for maps in view.maps],
    }


def fetched_values(view: SeriesView) -> dict[str, Any]:
    """The same for a page that fetches slices and maps when they are looked at, at full resolution."""
    return _described(view, view.pixels, 1) | {"slices": [], "maps": []}


def _described(view: SeriesView, shown: Sequence[np.ndarray], factor: int) -> dict[str, object]:
    """What the template says beside slices and maps. shown: the slices as they are displayed."""
    return {
        "details": view.details,
        "warnings": view.warnings,
        "matrix_note": _matrix_note(view.pixels[0], shown[0], factor),
        "series": _description(view, shown, factor),
        "maps_note": view.maps_note,
        "windows": [{"name": name, "level": level, "width": width} for name, (level, width) in WINDOWS.items()],
        "verdict": _verdict(view),
        "sides": view.sides,
        "ends": _ends(view.sides),
    }


def _reduction(pixels: Sequence[np.ndarray], most_bytes: int) -> int:
    """By which factor, a power of two, slices must be reduced to have some `most_bytes` at most when packed."""
    sample = pixels[:: -(-len(pixels) // _SAMPLE)]
    factor = 1
    while True:
        packed = sum(len(pack_pixels(reduce_pixels(each, factor))) for each in sample)
        if packed * len(pixels) <= most_bytes * len(sample) or factor >= max(max(each.shape) for each in sample):
            return factor
        factor *= 2


def _description(view: SeriesView, shown: Sequence[np.ndarray], factor: int) -> dict[str, object]:
    """What viewer.js must know: see Series there."""
    probabilities = [None] * len(shown) if view.probabilities is None else view.probabilities.tolist()
    slices = [
        {
            "rows": pixels.shape[0],
            "columns": pixels.shape[1],
            "spacing": [factor * float(mm) for mm in spacing] if np.all(np.array(spacing) > 0) else None,
            "z": round(float(z), 3) if np.isfinite(z) else None,
            "id": slice_id,
            "probabilities": of_slice,
        }
        for pixels, spacing, z, slice_id, of_slice in zip(
            shown, view.spacings, view.z, view.ids, probabilities, strict=True
        )
    ]
    return {
        "labels": [LABEL_NAMES[label] for label in LABELS],
        "study": None if view.study is None else view.study.tolist(),
        "thresholds": [_threshold(view, label) for label in LABELS],
        "slices": slices,
        "maps": None if view.maps is None else {"rows": view.maps.shape[2], "columns": view.maps.shape[3]},
        "reduction": factor,
    }


def _threshold(view: SeriesView, label: str) -> float | None:
    threshold = view.thresholds.get(label)
    return None if threshold is None or not np.isfinite(threshold) else float(threshold)


def _verdict(view: SeriesView) -> str:
    """One sentence for the study, on `any`."""
    if view.study is None:
        return "Probabilities are being computed."
    probability, threshold = float(view.study[0]), _threshold(view, LABELS[0])
    study = f"Study: any hemorrhage {_in_words(probability)}"
    if threshold is None:
        return f"{study}; no threshold is given."
    side = "at or above" if probability >= threshold else "below"
    return f"{study}, {side} the threshold of {_in_words(threshold)}."


def _in_words(probability: float) -> str:
    """A probability for people, as viewer.js writes it: none is rounded to 0 or 1."""
    if 0 < probability < 0.005:
        return "<0.01"
    return ">0.99" if 0.995 <= probability < 1 else f"{probability:.2f}"


def _matrix_note(original: np.ndarray, shown: np.ndarray, factor: int) -> str:
    if factor == 1:
        return ""
    sizes = [f"{pixels.shape[0]} × {pixels.shape[1]}" for pixels in (shown, original)]  # noqa: RUF001 - the sign
    return (
        f"Shown at reduced resolution, {sizes[0]} in place of {sizes[1]} pixels, to keep this page small: each pixel "
        f"is the mean HU of {factor} by {factor}, so that small or thin bleeds look fainter than they are."
    )


def _ends(sides: str) -> tuple[str, str]:
    """Where the first and the last slice lie, in words; blanks where the sides of the image are not known.

    z grows along the normal, which is the direction of rows times that of columns (PS3.3 C.7.6.2.1.1).
    """
    words = dict(zip("LRPAHF", ("left", "right", "back", "front", "head", "feet"), strict=True))
    if not sides:
        return "", ""
    normal = np.cross(_DIRECTIONS[sides[1]], _DIRECTIONS[sides[3]])
    found = [word for sign in (-1, 1) for letter, word in words.items() if (sign * normal == _DIRECTIONS[letter]).all()]
    return (found[0], found[1]) if len(found) == 2 else ("", "")
