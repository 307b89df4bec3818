"""Render a planned study of a hard head: the position of the head in the scanner, the slices and their labels."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from threadpoolctl import ThreadpoolController

from src.synthetic.hard.atlas import Image, atlas
from src.synthetic.hard.bleeds import Bleed
from src.synthetic.hard.findings import Finding, draw_findings
from src.synthetic.hard.head import Head, Nodes
from src.synthetic.hard.headrest import Headrest
from src.synthetic.hard.physics import Scanner
from src.synthetic.hard.random_bleeds import draw_bleeds
from src.synthetic.hard.shapes import Fields, distance
from src.synthetic.plan import Study, patient_generator
from src.synthetic.rendered import RenderedSlice, render

Window = tuple[slice, slice]  # rows and columns
Millimetres = NDArray[np.floating[Any]]  # one-dimensional

NODE_MM = 5.0  # spacing of the points at which the deformation is computed; between them it is linear
SECTION_MM = 2.0  # largest distance between the thin sections averaged into a slice
LEAST_PIXELS = 256  # smaller images are rendered at least this large and averaged, so that thin structures stay thin
SPAN_MM = 138.0  # from the foramen magnum to above the vertex
SPACING_MM = (2.5, 8.0)  # limits of the distance between slices
MIDDLE_MM = 10.0  # z of the middle of that span, above the anterior commissure
BEHIND_MM = 13.0  # y of the middle of the head, behind the anterior commissure
# A pixel shows blood if at least BLOOD_FRACTION of it is blood and it has less than BONE_HU and at least BRIGHT_HU; old
# blood, which is recognised by its shape, may be darker
BLOOD_FRACTION, BRIGHT_HU, BONE_HU = 0.3, 45.0, 150.0
VISIBLE_FRACTION = 1.5e-4  # of a slice's pixels that show blood; less is too small to notice and not labelled
# At 512 x 512 pixels of 0.45 mm that is 39 pixels or 8 mm^2: a spot 3 mm across


@dataclass(frozen=True)
class Patient:
    """What is the same in all studies of a patient."""

    head: Head
    bleeds: list[tuple[str, Bleed]]
    findings: list[Finding]

    @classmethod
    def draw(cls, seed: int, patient: int, subtypes: tuple[str, ...]) -> "Patient":
        """Draw the patient with this index in the plan."""
        rng = patient_generator(seed, patient)
        head = Head.draw(rng)
        return cls(head, draw_bleeds(subtypes, rng), draw_findings(max(head.atrophy, 0.0), subtypes, rng))


@dataclass(frozen=True)
class Pose:
    """The position of the head and of the slices."""

    turn: tuple[float, float, float]  # radians about x (nodding), y (leaning), z (turning)
    shift_mm: tuple[float, float]  # of the middle of the head relative to that of the image, along x and y
    tilt: float  # of the gantry about x, in radians
    pixel_mm: float
    table_mm: float  # z of the middle of the series in the scanner
    positions_mm: tuple[float, ...]  # of the table for each slice, relative to the middle of the series
    thickness_mm: tuple[float, ...]  # of each slice

    @classmethod
    def draw(cls, rng: np.random.Generator, study: Study) -> "Pose":
        """Draw the position of one study."""
        tilt = float(np.deg2rad(rng.uniform(6, 20))) if study.tilted else 0.0
        nod = float(np.deg2rad(rng.normal(8, 5)) - 0.6 * tilt)  # with tilt: about the orbitomeatal line
        count = len(study.slice_ids)
        gaps = np.full(count - 1, np.clip(SPAN_MM / count, *SPACING_MM))
        if count >= 12 and rng.random() < 0.25:  # thinner slices through the base, as in some protocols
            first = int(0.45 * count)
            gaps[:first] *= 0.75
            gaps[first:] *= 1.2
            gaps[first - 1] = rng.uniform(0.3, 1.0) * gaps[0]  # the gap between the two groups
        gaps = np.round(gaps, 2)
        positions = np.concatenate([[0.0], np.cumsum(gaps)])
        filled = float(rng.choice([1.0, 1.0, 0.9, 0.8]))  # below 1, there are unscanned gaps between slices
        widths = np.minimum(np.append(gaps, gaps[-1]), np.append(gaps[0], gaps).max()) * filled
        return cls(
            turn=(nod, float(np.deg2rad(rng.normal(0, 3.5))), float(np.deg2rad(rng.normal(0, 5)))),
            shift_mm=(float(rng.normal(0, 4)), float(rng.normal(0, 5))),
            tilt=tilt,
            pixel_mm=round(float(rng.uniform(222, 252)) / study.rows, 6),
            table_mm=round(float(rng.uniform(-80, 220)), 2),
            positions_mm=tuple(float(each) for each in positions - positions[-1] / 2),
            thickness_mm=tuple(float(each) for each in widths),
        )

    def to_head(self, points: Nodes) -> Nodes:
        """Map points (3, ...) in mm from the scanner to the coordinates of the head."""
        x, y, z = points[0] - self.shift_mm[0], points[1] - self.shift_mm[1], points[2]
        (sx, cx), (sy, cy), (sz, cz) = ((np.sin(angle), np.cos(angle)) for angle in self.turn)
        x, y = cz * x + sz * y, cz * y - sz * x
        x, z = cy * x - sy * z, cy * z + sy * x
        y, z = cx * y + sx * z, cx * z - sx * y
        return np.stack([x, y + BEHIND_MM, z + MIDDLE_MM])


@dataclass(frozen=True)
class _Grid:
    """The deformation on a grid of nodes: along the normal of the slices, and down and across them."""

    normal_mm: Millimetres
    down_mm: Millimetres
    across_mm: Millimetres
    values: Nodes  # (7, normal, down, across): position in the atlas, position of the brain in the atlas, fluid

    def section(self, normal_mm: float) -> Nodes:
        """Interpolate the nodes of one section: (7, down, across)."""
        at = np.clip((normal_mm - self.normal_mm[0]) / NODE_MM, 0, self.normal_mm.size - 1.001)
        below, fraction = int(at), np.float32(at % 1.0)
        return self.values[:, below] + fraction * (self.values[:, below + 1] - self.values[:, below])


@dataclass(frozen=True)
class Scan:
    """One study of a patient."""

    patient: Patient
    study: Study
    seed: int

    @classmethod
    def of(cls, study: Study, seed: int) -> "Scan":
        """Return the scan of a planned study."""
        return cls(Patient.draw(seed, study.patient, study.bleeds), study, seed)

    @cached_property
    def _drawn(self) -> tuple[Pose, Scanner, Headrest]:
        rng = self.study.generator(self.seed)
        return Pose.draw(rng, self.study), Scanner.draw(rng), Headrest.draw(rng)

    @property
    def pose(self) -> Pose:
        """The position of the head and of the slices."""
        return self._drawn[0]

    @cached_property
    def _finer(self) -> int:
        """How many pixels are rendered per output pixel along each side."""
        return -(-LEAST_PIXELS // self.study.rows)

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """Shape of the rendered image, even in both directions."""
        rows, columns = self.study.rows * self._finer, self.study.columns * self._finer
        return rows + rows % 2, columns + columns % 2

    @cached_property
    def _background(self) -> Image:
        """HU around the head, the same in every slice: the headrest, which touches the lowest point of the head."""
        pose, grid = self.pose, self._grid
        lowest = np.full(grid.across_mm.size, -np.inf)  # lowest point of the head over all slices, by position across
        for position in pose.positions_mm:
            head = atlas().skull(grid.section(position * np.cos(pose.tilt))[:3]).outside > -900
            rows = np.where(head, grid.down_mm[:, None] + position * np.sin(pose.tilt), -np.inf)
            lowest = np.maximum(lowest, rows.max(axis=0))
        lowest = ndimage.maximum_filter1d(lowest, 3) + NODE_MM  # the skin may lie up to a node further out
        return self._drawn[2].picture(*self._pixels_mm, head=(grid.across_mm, lowest))

    @cached_property
    def _pixels_mm(self) -> tuple[Millimetres, Millimetres]:
        """Centres of rows and columns, in mm from the middle of the image."""
        step = self.pose.pixel_mm / self._finer
        kept = self.study.rows * self._finer, self.study.columns * self._finer
        down, across = (step * (np.arange(made) - (of - 1) / 2) for made, of in zip(self._shape, kept, strict=True))
        return down, across

    @cached_property
    def _grid(self) -> _Grid:
        pose = self.pose
        down, across = self._pixels_mm
        slip = [position * np.sin(pose.tilt) for position in (pose.positions_mm[0], pose.positions_mm[-1])]
        ends = [position * np.cos(pose.tilt) for position in (pose.positions_mm[0], pose.positions_mm[-1])]
        axes = [
            np.arange(low - NODE_MM - 6, high + 2 * NODE_MM + 6, NODE_MM)
            for low, high in (
                ends,
                (down[0] - max(0, *slip), down[-1] - min(0, *slip)),
                (across[0], across[-1]),
            )
        ]
        normal, row, column = np.meshgrid(*axes, indexing="ij")
        sine, cosine = np.sin(pose.tilt), np.cos(pose.tilt)
        scanner = np.stack([column, row * cosine + normal * sine, normal * cosine - row * sine])
        points = pose.to_head(scanner)
        place = self.patient.head.to_atlas(points)
        flat = place.reshape(3, -1, place.shape[-1])  # OpenCV reads two dimensions
        depth = atlas().skull(flat).depth.reshape(normal.shape)
        pushed = np.zeros_like(place)
        for _, bleed in self.patient.bleeds:
            push = bleed.push(place, depth)
            if push is not None:
                pushed += push.astype(np.float32)
        pushed *= np.clip((depth + 4.0) / 2.0, 0.0, 1.0).astype(np.float32)  # only the brain is displaced
        effaced = 0.035 * np.sqrt((pushed**2).sum(axis=0))
        fluid = (0.25 * self.patient.head.atrophy - effaced).astype(np.float32)
        brain = place + self.patient.head.brain_bend(points, depth) + pushed
        values = np.concatenate([place, brain, fluid[None]]).astype(np.float32)
        return _Grid(normal_mm=axes[0], down_mm=axes[1], across_mm=axes[2], values=values)

    def slice(self, index: int) -> RenderedSlice:
        """Render one slice, counted from the lowest."""
        study, pose = self.study, self.pose
        rng = study.generator(self.seed, index)
        hu, fractions = self.anatomy(index)
        # labels refer to the full-size image, as in the competition, so that a reduced one keeps them
        visible = {
            name: self._reduce(fraction)
            for name, fraction in fractions.items()
            if self.seen(name, fraction, hu).mean() >= VISIBLE_FRACTION
        }
        hu = self._drawn[1].take(hu, pose.pixel_mm / self._finer, rng)
        hu = self._reduce(hu)
        table_mm = pose.table_mm + pose.positions_mm[index]
        return render(study, index, hu, visible, pixel_mm=pose.pixel_mm, tilt=pose.tilt, table_mm=table_mm)

    def seen(self, subtype: str, fraction: Image, hu: Image) -> NDArray[np.bool_]:
        """Return where a bleed is visible. fraction: of its blood in each pixel; hu: of the slice without noise."""
        by_shape = any(name == subtype and bleed.blood.hu < BRIGHT_HU for name, bleed in self.patient.bleeds)
        return (fraction >= BLOOD_FRACTION) & (hu < BONE_HU) & (by_shape | (hu >= BRIGHT_HU))

    def _reduce(self, fine: Image) -> Image:
        """Average the rendered pixels to those of the output."""
        rows, columns = self.study.rows, self.study.columns
        fine = fine[: rows * self._finer, : columns * self._finer]
        if self._finer == 1:
            return fine
        return np.asarray(cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.float32)

    def anatomy(self, index: int) -> tuple[Image, dict[str, Image]]:
        """Return one slice without the effects of the scanner: HU, and the fraction of blood of each subtype in it.

        Both are averaged over the thickness of the slice and have the rendered size.
        """
        pose, (down, across) = self.pose, self._pixels_mm
        middle = pose.positions_mm[index] * np.cos(pose.tilt)
        moved = down - pose.positions_mm[index] * np.sin(pose.tilt)
        thickness = pose.thickness_mm[index] * np.cos(pose.tilt)
        count = max(2, int(np.ceil(thickness / SECTION_MM)))
        total = np.zeros(self._shape, dtype=np.float32)
        fractions: dict[str, Image] = {}
        for offset in thickness * ((np.arange(count) + 0.5) / count - 0.5):
            hu, window, blood = self._section(middle + offset, moved, across)
            whole = self._background.copy()
            whole[window] = np.where(hu > -500, hu, np.maximum(hu, whole[window]))
            total += whole
            for name, fraction in blood.items():
                fractions.setdefault(name, np.zeros(self._shape, dtype=np.float32))[window] += fraction
        return total / count, {name: fraction / count for name, fraction in fractions.items()}

    def _section(
        self, normal_mm: float, down_mm: Millimetres, across_mm: Millimetres
    ) -> tuple[Image, Window, dict[str, Image]]:
        """Render a thin section: HU in the window that contains the head, that window, and the fractions of blood."""
        grid, head = self._grid, self.patient.head
        nodes = grid.section(normal_mm)
        window = _where_head_is(nodes[:3], grid, down_mm, across_mm)
        down, across = _weights(grid.down_mm, down_mm[window[0]]), _weights(grid.across_mm, across_mm[window[1]])
        if down.shape[0] == 0 or across.shape[0] == 0:
            return np.zeros((0, 0), dtype=np.float32), window, {}
        with _one_thread():
            values = down @ nodes @ across.T  # linear between nodes
        where, fluid = values[:3], values[6]
        skull, brain = atlas().skull(where), atlas().brain(values[3:6])
        ventricle = head.ventricle_fraction(brain, values[3:6])
        space = np.clip((0.4 - brain.tissue + fluid * np.clip(1.6 - 1.6 * brain.tissue, 0.0, 1.0)) * 4.0, 0.0, 1.0)
        fields = Fields(where, skull, brain, space * (1.0 - ventricle), ventricle)
        findings = [each for each in self.patient.findings if _meets(each, nodes)]

        inside = head.brain_hu(brain, skull, fluid, ventricle)
        for finding in findings:
            inside = finding.in_brain(inside, fields)
        fractions: dict[str, Image] = {}
        cavity = np.clip(skull.depth + np.float32(0.5), 0.0, 1.0)
        met = [(name, bleed) for name, bleed in self.patient.bleeds if _meets(bleed, nodes)]
        for _, bleed in met:
            inside = bleed.around(inside, fields)
        for name, bleed in met:
            fraction = (bleed.fraction(fields) * cavity).astype(np.float32)
            inside = inside + fraction * (bleed.blood.at(fields) - inside)
            fractions[name] = np.maximum(fractions[name], fraction) if name in fractions else fraction
        hu = skull.outside + cavity * (inside - skull.outside)
        bone = head.bone_fraction(skull)
        for finding in findings:
            bone = finding.in_bone(bone, fields)
        fractions = {name: fraction * (1.0 - bone) for name, fraction in fractions.items()}
        hu = hu + bone * (head.bone_hu(skull, brain) - hu)
        hu = head.with_cells(hu, where, brain, skull)
        for finding in findings:
            hu = finding.over_all(hu, fields)
        return hu.astype(np.float32), window, fractions


def _meets(shape: Bleed | Finding, nodes: Nodes) -> bool:
    """Return whether a section comes near a shape."""
    return bool(distance(nodes[:3], shape.centre).min() < shape.reach_mm + NODE_MM)


def _one_thread() -> AbstractContextManager[object]:
    """Multiply matrices in one thread: how several share the work decides the last bits."""
    return _blas().limit(limits=1, user_api="blas")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # kept, because it takes milliseconds to find the libraries


def _weights(nodes_mm: Millimetres, pixels_mm: Millimetres) -> Image:
    """Return the matrix of linear interpolation from nodes to pixels, (pixels, nodes)."""
    at = (pixels_mm - nodes_mm[0]) / NODE_MM
    return np.clip(1.0 - np.abs(at[:, None] - np.arange(nodes_mm.size)), 0.0, None).astype(np.float32)


def _where_head_is(places: Nodes, grid: _Grid, down_mm: Millimetres, across_mm: Millimetres) -> Window:
    """Return the rows and columns outside of which a section shows only air."""
    head = atlas().skull(places).outside > -900
    limits = []
    for axis, nodes, pixels in ((1, grid.down_mm, down_mm), (0, grid.across_mm, across_mm)):
        found = np.flatnonzero(head.any(axis=axis))
        if not found.size:
            return slice(0, 0), slice(0, 0)
        low, high = nodes[found[0]] - NODE_MM, nodes[found[-1]] + NODE_MM
        limits.append(slice(int(np.searchsorted(pixels, low)), int(np.searchsorted(pixels, high))))
    return limits[0], limits[1]
