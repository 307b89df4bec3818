"""How often the maximum of a class activation map lies on the bleed, beside chance: hard generated heads.

    python -m benchmarks.explain --detector model/detector --seed 1

The heads are new to the detector as long as the seed is not that of its training set; where their blood is, is known. A
map's maximum is a hit where it lies within 10 mm of blood of its label. Chance is the fraction of all places within the
skull that would be one. Slices with the label count, at whatever probability; and those of them that the detector calls
positive (Youden's threshold by slice), which are the maps that somebody looks at. Intervals are over patients.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.heads import HeadCT, generate
from benchmarks.measure import machine, table
from src.detector import Detector
from src.evaluate.intervals import PatientRatios, jackknife, proportion_interval, sums_by_patient
from src.labels import LABELS
from src.progress import progress
from src.synthetic.hard.scan import BLOOD_FRACTION
from src.synthetic.realism import within_skull

HIT_MM = 10.0


@dataclass(frozen=True)
class Look:
    """One map of a slice with its label. chance: of a hit, for a place anywhere within the skull."""

    patient: int
    label: int
    hit: bool
    chance: float
    called: bool


def look_at(detector: Detector, head: HeadCT, size: int) -> Iterator[Look]:
    """The looks at the slices of a study that bleed. Raises ValueError where the detector has no maps."""
    if not head.labels.any():
        return
    maps, probabilities = detector.activation_maps(head.series, size), detector(head.series)
    if maps is None:
        raise ValueError("the detector has no class activation maps")
    thresholds = detector.operating_points.get("slice", {}).get("youden", {})
    for each, hu, of_slice, values in zip(head.rendered, head.series.pixels, maps, probabilities, strict=True):
        inside = within_skull(hu, head.pixel_mm)
        if not each.covers or not inside.any():
            continue
        covers = {"any": np.max(list(each.covers.values()), axis=0), **each.covers}
        for name, cover in covers.items():
            if not (cover >= BLOOD_FRACTION).any():  # shared by two subtypes, or thinner than a pixel
                continue
            near = ndimage.distance_transform_edt(cover < BLOOD_FRACTION) * head.pixel_mm <= HIT_MM
            label = LABELS.index(name)
            threshold = thresholds.get(name)
            row, column = place_of_maximum(of_slice[label], hu.shape)
            yield Look(
                patient=head.patient,
                label=label,
                hit=bool(near[row, column]),
                chance=float(near[inside].mean()),
                called=threshold is not None and bool(values[label] >= threshold),
            )


def place_of_maximum(activation: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int]:
    """The pixel of a slice at the maximum of a map over the square around it: (size, size) -> (row, column)."""
    side = max(shape)
    place = np.array(np.unravel_index(int(activation.argmax()), activation.shape))
    middle = (place + 0.5) * side / activation.shape[0]
    row, column = (middle - (side - np.array(shape)) / 2).astype(int).clip(0, np.array(shape) - 1)
    return int(row), int(column)


def row_of(looks: list[Look], label: int) -> list[object]:
    """A label's row of the table."""
    of_label = [each for each in looks if each.label == label]
    called = [each for each in of_label if each.called]
    return [LABELS[label], len({each.patient for each in of_label}), *_rate(of_label), *_rate(called)]


def _rate(looks: list[Look]) -> tuple[object, ...]:
    """(number, hits with their interval, chance) in words."""
    if not looks:
        return 0, "-", "-"
    _, patients = np.unique([each.patient for each in looks], return_inverse=True)
    ones = np.ones((len(looks), 1))
    ratios = PatientRatios(np.array([[float(each.hit)] for each in looks]), ones, patients)
    count = int(patients.max()) + 1
    value = ratios(np.ones(count))
    low, high = proportion_interval(value, jackknife(ratios, count), sums_by_patient(ones, patients))
    chance = np.mean([each.chance for each in looks])
    return len(looks), f"{value[0]:.0%} [{low[0]:.0%}, {high[0]:.0%}]", f"{chance:.0%}"


def main() -> None:
    """Read arguments, measure, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain", description=__doc__)
    parser.add_argument(
        "--detector", type=Path, default=Path("model/detector"), help="its folder (default %(default)s)"
    )
    parser.add_argument("--patients", type=int, default=100, help="to generate (default %(default)s)")
    parser.add_argument("--slices", type=int, default=24, help="mean number of a series (default %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="rows and columns (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the heads (default %(default)s)")
    parser.add_argument("--map-size", type=int, default=32, help="of maps, in places (default %(default)s)")
    args = parser.parse_args()
    detector = Detector.load(args.detector, runtime="auto")
    looks: list[Look] = []
    for head in progress(generate(args.patients, args.slices, args.size, args.seed), desc="studies", unit="study"):
        looks += look_at(detector, head, args.map_size)
    print(machine())
    table(
        f"Maxima within {HIT_MM:.0f} mm of the bleed, of maps of {args.map_size} x {args.map_size} places",
        ("label", "patients", "slices", "hits", "chance", "slices called", "hits of these", "chance of these"),
        [tuple(row_of(looks, label)) for label in range(len(LABELS))],
    )


if __name__ == "__main__":
    main()
