"""Render a planned study of an easy head: where its sections lie in the head, and what each of them shows."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from src.synthetic.easy.anatomy import Head, Image, Plane
from src.synthetic.easy.bleeds import BLEEDS, Bleed
from src.synthetic.plan import Study, patient_generator
from src.synthetic.rendered import RenderedSlice, render

VISIBLE_MM2 = 250.0  # a bleed that covers less than this in a section is neither drawn nor labelled
HEAD_SPAN_MM = 102.0  # from the petrous ridges to the vertex
SPACING_MM = (2.5, 8.5)  # limits of the distance between sections
HEAD_MIDDLE_MM = 9.0  # z of the middle of that span


@dataclass(frozen=True)
class Patient:
    """What is the same in all studies of a patient: the head and its bleeds."""

    head: Head
    bleeds: dict[str, Bleed]

    @classmethod
    def draw(cls, seed: int, patient: int, bleeds: tuple[str, ...]) -> "Patient":
        """Draw the patient with this index in the plan."""
        rng = patient_generator(seed, patient)
        return cls(Head.draw(rng), {name: BLEEDS[name].draw(rng) for name in bleeds})


@dataclass(frozen=True)
class Scan:
    """One study of a patient: the position of the head in the scanner, and of the sections."""

    patient: Patient
    study: Study
    seed: int

    @classmethod
    def of(cls, study: Study, seed: int) -> "Scan":
        """Return the scan of a planned study."""
        return cls(Patient.draw(seed, study.patient, study.bleeds), study, seed)

    @cached_property
    def _pose(self) -> "_Pose":
        return _Pose.draw(self.study.generator(self.seed), self.study)

    def plane(self, index: int) -> Plane:
        """Return the position of one slice, counted from the lowest, in the head."""
        return self._pose.plane(self.study.rows, self.study.columns, self._table_mm(index))

    def _table_mm(self, index: int) -> float:
        """Return the table position for a slice, relative to the middle of the scanned span."""
        return (index - (len(self.study.slice_ids) - 1) / 2) * self._pose.spacing_mm

    def slice(self, index: int) -> RenderedSlice:
        """Render one slice, counted from the lowest."""
        study, pose = self.study, self._pose
        rng = study.generator(self.seed, index)
        plane = self.plane(index)
        section = self.patient.head.section(plane)
        hu, covers = section.hu, {}
        for name, bleed in self.patient.bleeds.items():
            cover = bleed.cover(section)
            if (cover >= 0.5).sum() * pose.pixel_mm**2 >= VISIBLE_MM2:
                hu, covers[name] = bleed.paint(hu, section), cover
        hu = hu + _noise(hu.shape, pose.noise_hu, rng)

        table_mm = pose.table_mm + self._table_mm(index)
        return render(study, index, hu, covers, pixel_mm=pose.pixel_mm, tilt=pose.tilt, table_mm=table_mm)


@dataclass(frozen=True)
class _Pose:
    shift_mm: tuple[float, float, float]  # of the head's origin relative to the middle of the scanned span
    turn: float  # radians about the head's axis
    tilt: float  # of the gantry about x, in radians
    spacing_mm: float  # table movement between sections
    pixel_mm: float
    table_mm: float  # z of the middle of the span in the scanner
    noise_hu: float

    @classmethod
    def draw(cls, rng: np.random.Generator, study: Study) -> "_Pose":
        return cls(
            shift_mm=(rng.uniform(-5, 5), rng.uniform(-4, 4), rng.uniform(-4, 4) - HEAD_MIDDLE_MM),
            turn=float(np.deg2rad(rng.uniform(-6, 6))),
            tilt=float(np.deg2rad(rng.uniform(6, 18))) if study.tilted else 0.0,
            spacing_mm=round(float(np.clip(HEAD_SPAN_MM / len(study.slice_ids), *SPACING_MM)), 2),
            pixel_mm=round(rng.uniform(228, 248) / study.rows, 6),
            table_mm=round(rng.uniform(-80, 220), 2),
            noise_hu=rng.uniform(3.0, 4.0),
        )

    def plane(self, rows: int, columns: int, table_mm: float) -> Plane:
        """Return the section scanned with the table at `table_mm` from the middle of the span."""
        scanner_x, scanner_y = np.meshgrid(
            (np.arange(columns, dtype=np.float32) - np.float32((columns - 1) / 2)) * np.float32(self.pixel_mm),
            (np.arange(rows, dtype=np.float32) - np.float32((rows - 1) / 2)) * np.float32(self.pixel_mm),
        )
        x = scanner_x - self.shift_mm[0]
        # the sections of a tilted gantry are parallel, but each is shifted in y relative to the one before
        y = scanner_y - self.shift_mm[1] - table_mm * np.sin(self.tilt)
        cosine, sine = np.cos(self.turn), np.sin(self.turn)
        return Plane(
            x=(cosine * x + sine * y).astype(np.float32),
            y=(cosine * y - sine * x).astype(np.float32),
            z=float(table_mm * np.cos(self.tilt) - self.shift_mm[2]),
            scanner_x=scanner_x,
            scanner_y=scanner_y,
            pixel_mm=self.pixel_mm,
        )


def _noise(shape: tuple[int, ...], sd: float, rng: np.random.Generator) -> Image:
    """Draw noise in HU with the texture of a soft-tissue kernel and the given standard deviation."""
    white = rng.standard_normal(shape, dtype=np.float32)
    grain = cv2.GaussianBlur(white, (0, 0), 0.6)
    return (grain * (sd / grain.std())).astype(np.float32)
