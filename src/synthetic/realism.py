"""Compare generated head CTs with a real one: the same measures of both, and a picture of both side by side.

All measures are taken within the skull: densities, the level and spectrum of noise, gradients, and the correlation
between neighbouring slices.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from src.arguments import Parser, natural, positive
from src.ct.geometry import positions_along_normal
from src.ct.windows import apply_windows
from src.dicom import read_header, read_hounsfield
from src.errors import UserError, run_command
from src.files.atomic import replacing
from src.synthetic.hard.scan import Scan
from src.synthetic.plan import Study

Image = NDArray[np.floating[Any]]

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)  # of HU
GRADIENTS = (50, 90, 99)  # percentiles of HU/mm
PATCH = 64  # side in pixels of the squares whose spectra are averaged
FREQUENCIES = np.array([0.03, 0.1, 0.2, 0.3, 0.45, 0.65])  # limits of the frequency bands, cycles/mm
RIM_MM = 2.0  # pixels closer to bone than this are not measured
TILE = 224  # side in pixels of a slice in the picture
HEIGHTS = (0.22, 0.38, 0.6, 0.76)  # positions of the slices in the picture, as fractions of the series
LEAST_MM2 = 4000.0  # smallest area of brain in a slice that is measured


@dataclass(frozen=True)
class Texture:
    """The measures of a series."""

    hu: NDArray[np.float64]  # PERCENTILES of HU
    noise_hu: float  # robust standard deviation of the difference from a Gaussian of 2 pixels
    spectrum: NDArray[np.float64]  # fraction of the power in each band of FREQUENCIES
    gradients: NDArray[np.float64]  # GRADIENTS of HU/mm
    correlation: float  # median over pairs of neighbouring slices, smoothed


def within_skull(hu: Image, pixel_mm: float) -> NDArray[np.bool_]:
    """Return a mask of the largest part of a slice that is enclosed by bone, without a rim: (rows, columns)."""
    bone = hu > 200
    enclosed = ndimage.binary_fill_holes(ndimage.binary_closing(bone, iterations=6))
    inside = enclosed & (ndimage.distance_transform_edt(~bone) * pixel_mm > RIM_MM)
    numbers, count = ndimage.label(ndimage.binary_opening(inside, iterations=2))
    return numbers == np.argmax(np.bincount(numbers.ravel())[1:]) + 1 if count else np.zeros_like(bone)


def measure(series: Sequence[Image], pixel_mm: float) -> Texture:
    """Measure the slices of a series, in order. Raises ValueError if too little of a brain is visible."""
    masks = [within_skull(hu, pixel_mm) for hu in series]
    smooth = [_smooth_within(hu, mask) for hu, mask in zip(series, masks, strict=True)]
    seen = [i for i, mask in enumerate(masks) if mask.sum() * pixel_mm**2 > LEAST_MM2]
    if len(seen) < 2:
        raise ValueError("expected at least two slices with a brain in them")
    values = np.concatenate([series[i][masks[i]] for i in seen])
    noise, gradients, powers = [], [], []
    for i in seen:
        deep = ndimage.binary_erosion(masks[i], iterations=6)
        if not deep.any():
            continue
        rest = (series[i] - smooth[i])[deep]
        noise.append(1.4826 * np.median(np.abs(rest - np.median(rest))))
        steps = np.hypot(*np.gradient(ndimage.gaussian_filter(series[i], 0.5), pixel_mm))
        gradients.append(np.percentile(steps[deep], GRADIENTS))
        powers += _spectra(series[i], masks[i])
    neighbours = [
        np.corrcoef(smooth[i][both], smooth[j][both])[0, 1]
        for i, j in itertools.pairwise(seen)
        if (both := masks[i] & masks[j]).sum() * pixel_mm**2 > LEAST_MM2
    ]
    if not powers or not neighbours:
        raise ValueError(f"expected neighbouring slices with squares of {PATCH} pixels within the skull")
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(PATCH, pixel_mm)] * 2))
    bands = np.digitize(frequency, FREQUENCIES)
    power = np.mean(powers, axis=0)
    fractions = np.array([power[bands == band].sum() for band in range(1, FREQUENCIES.size)])
    return Texture(
        hu=np.percentile(values, PERCENTILES),
        noise_hu=float(np.median(noise)),
        spectrum=fractions / fractions.sum(),
        gradients=np.median(gradients, axis=0),
        correlation=float(np.median(neighbours)),
    )


def _smooth_within(hu: Image, mask: NDArray[np.bool_]) -> Image:
    """Smooth a slice by a Gaussian of 2 pixels, using only pixels in the mask, so that bone does not blur into it."""
    weight = ndimage.gaussian_filter(mask.astype(np.float64), 2.0)
    return ndimage.gaussian_filter(np.where(mask, hu, 0.0).astype(np.float64), 2.0) / np.maximum(weight, 1e-9)


def _spectra(hu: Image, mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the power spectra of the squares that lie within a mask, without larger structures."""
    window = np.hanning(PATCH)[:, None] * np.hanning(PATCH)
    corners = np.arange(0, min(hu.shape) - PATCH + 1, PATCH // 4)
    found = []
    for top in corners:
        for left in corners:
            place = slice(top, top + PATCH), slice(left, left + PATCH)
            if mask[place].all():
                square = hu[place] - ndimage.gaussian_filter(hu[place], 6.0)
                found.append(np.abs(np.fft.fft2(square * window)) ** 2)
    return found


def read_series(folder: Path) -> tuple[list[Image], float]:
    """Read the DICOM files of a series: HU from the lowest slice to the highest, and the pixel size in mm.

    Raises UserError if there are none.
    """
    paths = sorted(folder.glob("*.dcm"))
    if not paths:
        raise UserError(f"no .dcm files in {folder}: expected the slices of one head CT")
    headers = [read_header(path) for path in paths]
    z = positions_along_normal(
        np.array([header.position for header in headers]), np.array([header.orientation for header in headers])
    )
    return [read_hounsfield(paths[i]) for i in np.argsort(z)], headers[0].row_spacing


def generate_series(number: int, *, seed: int = 0) -> tuple[list[Image], float]:
    """Generate a hard series of 30 slices without bleeds, the `number`th of a seed; as returned by `read_series`."""
    slice_ids = tuple(f"ID_{index:09x}" for index in range(30))
    study = Study(
        patient=number, number=0, split="train", patient_id="ID_0", study_id="ID_0", series_id="ID_0",
        slice_ids=slice_ids, bleeds=(), encoding="16-bit signed without intercept", explicit_vr=True,
        window=("40", "80"), rows=512, columns=512, tilted=number % 2 == 0,
    )  # fmt: skip
    scan = Scan.of(study, seed)
    return [scan.slice(index).stored.astype(np.float32) for index in range(len(slice_ids))], scan.pose.pixel_mm


def of_cerebrum(series: Sequence[Image]) -> Sequence[Image]:
    """Return the slices between the skull base and the vertex, where the measures are comparable."""
    return series[int(0.38 * len(series)) : int(0.9 * len(series))]


def draw(real: Sequence[Image], made: Sequence[Image]) -> NDArray[np.uint8]:
    """Draw the real series on the left and the generated one on the right, with a row for each of the three windows."""
    halves = []
    for series in (real, made):
        slices = np.stack([series[int(height * len(series))] for height in HEIGHTS])
        tiles = np.stack([_shrink(hu) for hu in slices])
        windows = apply_windows(tiles)  # (slices, rows, columns, windows)
        halves.append(np.concatenate([np.concatenate(list(windows[..., k]), axis=1) for k in range(3)]))
    gap = np.ones((halves[0].shape[0], 6), dtype=np.float32)
    return np.rint(np.concatenate([halves[0], gap, halves[1]], axis=1) * 255).astype(np.uint8)


def _shrink(hu: Image) -> Image:
    return np.asarray(cv2.resize(hu, (TILE, TILE), interpolation=cv2.INTER_AREA), dtype=np.float32)


def table(real: Texture, others: Sequence[Texture]) -> str:
    """Return a Markdown table: the measures of the real series, the median and range of the generated ones."""
    lines = ["| measure | real | generated: median | range |", "|---|---|---|---|"]
    for name, of in _ROWS:
        values = np.array([of(each) for each in others])
        low, middle, high = np.percentile(values, (0, 50, 100))
        lines.append(f"| {name} | {of(real):.3g} | {middle:.3g} | {low:.3g} .. {high:.3g} |")
    return "\n".join(lines)


_ROWS: list[tuple[str, Callable[[Texture], float]]] = [
    *((f"HU, percentile {percentile}", lambda t, i=i: float(t.hu[i])) for i, percentile in enumerate(PERCENTILES)),
    ("noise, HU", lambda t: t.noise_hu),
    *(
        (f"power, {low} .. {high} per mm", lambda t, i=i: float(t.spectrum[i]))
        for i, (low, high) in enumerate(itertools.pairwise(FREQUENCIES))
    ),
    *(
        (f"gradient, HU/mm, percentile {percentile}", lambda t, i=i: float(t.gradients[i]))
        for i, percentile in enumerate(GRADIENTS)
    ),
    ("correlation of neighbours", lambda t: t.correlation),
]


def main() -> None:
    """Read arguments, measure, print the table and draw the picture."""
    parser = Parser(
        prog="python -m src.synthetic.realism",
        description=__doc__,
        epilog="example: python -m src.synthetic.realism --real path/to/a/head/ct --picture docs/hard.png",
    )
    parser.add_argument("--real", type=Path, required=True, metavar="FOLDER", help="DICOM files of one head CT")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="file for a picture of both")
    parser.add_argument(
        "--patients", type=positive, default=8, help="number of generated series (default: %(default)s)"
    )
    parser.add_argument("--seed", type=natural, default=0, help="seed of the generated series (default: %(default)s)")
    args = parser.parse_args()
    real, pixel_mm = read_series(args.real)
    others = [generate_series(number, seed=args.seed) for number in range(args.patients)]
    print(table(measure(of_cerebrum(real), pixel_mm), [measure(of_cerebrum(each), mm) for each, mm in others]))
    if args.picture is not None:
        with replacing(args.picture) as partial:
            cv2.imwrite(str(partial), draw(real, others[0][0]))


if __name__ == "__main__":
    run_command(main)
