"""The anatomy of an easy head in three dimensions, cut into axial sections in Hounsfield units.

Coordinates are in mm, with the directions of DICOM's patient frame (PS3.3 C.7.6.2.1.1): x increases towards the
patient's left (right in the image), y towards the back, z towards the vertex. The origin is in the middle of the head,
level with the foramina of Monro. Sizes are rounded adult values; HU are those given in radiology textbooks.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]

AIR, FAT, SKIN, MUSCLE = -1000.0, -95.0, 35.0, 55.0
CSF, WHITE_MATTER, GREY_MATTER, CEREBELLUM, FALX = 9.0, 27.0, 37.0, 34.0, 55.0
DIPLOE, CORTICAL_BONE, PETROUS_BONE = 650.0, 1400.0, 1000.0
VITREOUS, HEADREST_SHELL, FOAM = 15.0, 150.0, -960.0

SKULL_BASE_Z = -26.0  # below this, bone reaches into the section
TENTORIUM_Z = -18.0  # below this, the back of the section is cerebellum
SCALP_MM = 5.0
DURA_MM = 1.2  # from the inner table to the surface of the brain, if nothing lies between them

# The lateral ventricle of one side as a chain of capsules: start (|x|, y, z), end (|x|, y, z), radius
_LATERAL_VENTRICLE = (
    ((13.0, -33.0, 2.0), (7.0, -10.0, 14.0), 6.5),  # frontal horn
    ((7.0, -10.0, 14.0), (12.0, 18.0, 22.0), 8.0),  # body
    ((12.0, 18.0, 22.0), (22.0, 34.0, 8.0), 9.5),  # atrium
    ((22.0, 34.0, 8.0), (21.0, 54.0, 3.0), 6.0),  # occipital horn
    ((22.0, 34.0, 8.0), (31.0, 2.0, -17.0), 4.0),  # temporal horn
)
# Cisterns and the Sylvian fissure, in the same form
_CISTERNS = (
    ((0.0, -12.0, -22.0), (13.0, -24.0, -18.0), 4.5),  # suprasellar cistern: front
    ((0.0, -12.0, -22.0), (15.0, -2.0, -17.0), 4.5),  # suprasellar cistern: back
    ((15.0, -2.0, -18.0), (17.0, 14.0, -14.0), 2.5),  # ambient
    ((17.0, 14.0, -14.0), (0.0, 27.0, -8.0), 3.0),  # quadrigeminal
    ((15.0, -22.0, -18.0), (36.0, -18.0, -12.0), 2.5),  # stem of the Sylvian fissure
    ((37.0, -20.0, -8.0), (38.0, 8.0, 8.0), 3.0),  # over the insula
    ((38.0, -14.0, 0.0), (66.0, -8.0, 4.0), 2.5),  # to the surface
)
# Deep grey matter as ellipsoids: centre (|x|, y, z), half-axes
_DEEP_GREY = (
    ((25.0, -4.0, 3.0), (8.0, 18.0, 13.0)),  # lentiform nucleus
    ((9.5, 10.0, 3.0), (8.0, 13.0, 11.0)),  # thalamus
    ((12.0, -20.0, 9.0), (6.0, 9.0, 10.0)),  # head of the caudate
)


def coverage(inside_mm: Image, edge_mm: float) -> Image:
    """Return the fraction of each pixel that a shape covers.

    inside_mm: signed distance to the border of the shape (mm, positive inside). edge_mm: width of the ramp that models
    the partial volume of pixels which the border crosses.
    """
    return np.clip(0.5 + inside_mm / edge_mm, 0.0, 1.0, dtype=np.float32)


def blend(hu: Image, tissue: Image | float, fraction: Image) -> Image:
    """Replace a fraction (0..1) of each pixel by another tissue."""
    return hu + fraction * (tissue - hu)


def _capsule(x: Image, y: Image, z: float, start: tuple[float, ...], end: tuple[float, ...], radius: float) -> Image:
    """Return the signed distance (mm, positive inside) to a capsule: all points within `radius` of a line segment."""
    (x0, y0, z0), axis = start, np.subtract(end, start)
    along = (x - x0) * axis[0] + (y - y0) * axis[1] + (z - z0) * axis[2]
    t = np.clip(along / np.float32(axis @ axis), 0.0, 1.0)
    squared = (x - x0 - t * axis[0]) ** 2 + (y - y0 - t * axis[1]) ** 2 + (z - z0 - t * axis[2]) ** 2
    return (radius - np.sqrt(squared)).astype(np.float32)


def ellipsoid(x: Image, y: Image, z: float, centre: tuple[float, ...], half_axes: tuple[float, ...]) -> Image:
    """Return the signed distance (mm, positive inside; exact only at the border) to an ellipsoid."""
    (x0, y0, z0), (a, b, c) = centre, half_axes
    radius = np.sqrt(((x - x0) / a) ** 2 + ((y - y0) / b) ** 2 + ((z - z0) / c) ** 2)
    return ((1.0 - radius) * min(a, b)).astype(np.float32)


@dataclass(frozen=True)
class Plane:
    """Position of a section: the pixel centres in the coordinates of the head and of the scanner."""

    x: Image  # (rows, columns) mm
    y: Image  # (rows, columns) mm
    z: float  # mm
    scanner_x: Image  # (rows, columns) mm from the axis of the gantry
    scanner_y: Image
    pixel_mm: float

    @property
    def edge_mm(self) -> float:
        """Width of the partial-volume ramp at a border: one pixel, but no sharper than the resolution of a head CT."""
        return max(self.pixel_mm, 0.9)


@dataclass(frozen=True)
class Section:
    """One axial section without noise, and the signed distances (mm, positive inside) used to place bleeds."""

    plane: Plane
    hu: Image  # (rows, columns) HU
    azimuth: Image  # radians around the head: 0 in front, positive on the patient's left
    radius: Image  # mm from the head's axis
    depth: Image  # mm below the inner table of the skull
    cavity: Image  # inside the skull, without the bone of its base
    ventricles: Image
    subarachnoid: Image  # sulci, fissures and cisterns
    texture: Image  # smooth random field of unit variance, which makes borders uneven


@dataclass(frozen=True)
class Head:
    """One patient's anatomy."""

    half_width: float  # mm, inside the skull at z = 0
    half_length: float
    height: float  # mm, from z = 0 to the inner table at the vertex
    skull_mm: float  # thickness of the vault
    ventricle_mm: float  # added to the radius of the lateral ventricles
    sulcus_mm: float  # half-width of a sulcus
    seed: int  # for the cortical folds

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Head":
        """Draw a random adult head."""
        return cls(
            half_width=rng.uniform(64, 70),
            half_length=rng.uniform(78, 85),
            height=rng.uniform(70, 77),
            skull_mm=rng.uniform(5.5, 8.5),
            ventricle_mm=rng.uniform(-1.5, 2.0),
            sulcus_mm=rng.uniform(0.7, 1.4),
            seed=int(rng.integers(2**32)),
        )

    def section(self, plane: Plane) -> Section:
        """Cut the head: HU without noise, and the position of its parts."""
        x, y, z, edge = plane.x, plane.y, plane.z, plane.edge_mm
        azimuth = np.arctan2(x, -y)
        radius = np.hypot(x, y)
        outline = self._outline(azimuth)
        inner = outline * self._narrowing(z, self.height)
        bone_mm = self.skull_mm * (1.0 + 0.25 * np.cos(2 * azimuth) ** 2)
        outer = (outline + bone_mm) * self._narrowing(z, self.height + self.skull_mm)
        surface = (outline + bone_mm + SCALP_MM) * self._narrowing(z, self.height + self.skull_mm + SCALP_MM)
        depth = inner - radius

        sulcus_field, fine_field = self._folds(azimuth, depth, z)
        subarachnoid = self._subarachnoid(plane, depth, sulcus_field, fine_field)
        ventricles = self._ventricles(plane)
        base = self._skull_base(plane, depth)
        cavity = np.minimum(depth, -base)

        hu = self._headrest(plane)
        hu = blend(hu, SKIN, coverage(surface - radius, edge))
        hu = blend(hu, FAT, coverage(surface - 1.8 - radius, edge))
        temporalis = np.minimum(outer + 3.5 - radius, 30.0 * (np.abs(np.sin(azimuth)) - 0.8))
        hu = blend(hu, MUSCLE, coverage(temporalis, edge) * float(np.clip((20.0 - z) / 20.0, 0.0, 1.0)))
        tables = np.clip(np.abs(2.0 * (radius - inner) / np.maximum(outer - inner, 1e-3) - 1.0), 0.0, 1.0)
        hu = blend(hu, DIPLOE + (CORTICAL_BONE - DIPLOE) * tables**2, coverage(outer - radius, edge))
        hu = blend(hu, CSF + 8.0, coverage(depth, edge))
        brain = self._parenchyma(plane, depth, sulcus_field, fine_field)
        hu = blend(hu, brain, coverage(depth - DURA_MM, edge))
        hu = blend(hu, CSF, coverage(np.minimum(subarachnoid, depth), edge))
        hu = blend(hu, CSF, coverage(ventricles, edge))
        hu = self._falx(hu, plane, depth)
        hu = blend(hu, PETROUS_BONE + 120.0 * fine_field, coverage(base, edge))
        hu = self._air_cells(hu, plane, np.minimum(base, outer - 3.0 - radius), fine_field)
        hu = self._orbits(hu, plane)
        return Section(
            plane=plane,
            hu=hu.astype(np.float32),
            azimuth=azimuth,
            radius=radius,
            depth=depth,
            cavity=cavity,
            ventricles=np.minimum(ventricles, cavity),
            subarachnoid=np.minimum(subarachnoid, cavity),
            texture=fine_field,
        )

    @property
    def back_mm(self) -> float:
        """Distance in mm from the head's axis to the skin at the back of the head."""
        return self.half_length + 1.25 * self.skull_mm + SCALP_MM

    def _outline(self, azimuth: Image) -> Image:
        """Return the distance of the inner table from the axis at z = 0: a superellipse, wider at the back."""
        sine, cosine = np.abs(np.sin(azimuth)), np.abs(np.cos(azimuth))
        power = 2.25
        oval = ((sine / self.half_width) ** power + (cosine / self.half_length) ** power) ** (-1.0 / power)
        return (oval * (1.0 - 0.07 * np.cos(azimuth) * sine)).astype(np.float32)

    @staticmethod
    def _narrowing(z: float, height: float) -> float:
        """Return the scale of a section relative to the one at z = 0."""
        if z >= height:
            return 0.0
        return float((1.0 - (z / height) ** 2.4) ** 0.5) if z > 0 else 1.0 - 0.1 * min(-z / 50.0, 1.5) ** 2

    @cached_property
    def _fold_volumes(self) -> tuple[Image, Image]:
        """Two smooth random fields of unit variance over (z, depth, azimuth), periodic in azimuth.

        The first is stretched in depth, so that its zero lines run inwards from the surface as sulci do.
        """
        rng = np.random.default_rng(self.seed)
        shape = (_FOLD_Z.size, _FOLD_DEPTHS, _FOLD_AZIMUTHS)
        fields = []
        for sigma in ((3.0, 5.0, 1.7), (1.2, 1.6, 1.2)):
            field = ndimage.gaussian_filter(
                rng.standard_normal(shape, dtype=np.float32), sigma, mode=("nearest", "nearest", "wrap")
            )
            fields.append((field / field.std()).astype(np.float32))
        return fields[0], fields[1]

    def _folds(self, azimuth: Image, depth: Image, z: float) -> tuple[Image, Image]:
        """Interpolate both random fields in one section."""
        column = ((azimuth / (2 * np.pi) + 0.5) * _FOLD_AZIMUTHS).astype(np.float32)
        row = np.clip(depth / _FOLD_MM, 0, _FOLD_DEPTHS - 1).astype(np.float32)
        position = float(np.clip((z - _FOLD_Z[0]) / _FOLD_MM, 0, _FOLD_Z.size - 1.001))
        below, upper = int(position), position % 1.0
        planes = []
        for volume in self._fold_volumes:
            flat = (np.float32(1.0 - upper) * volume[below] + np.float32(upper) * volume[below + 1]).astype(np.float32)
            flat = np.concatenate([flat, flat[:, :2]], axis=1)  # makes the interpolation periodic
            planes.append(np.asarray(cv2.remap(flat, column, row, cv2.INTER_LINEAR), dtype=np.float32))
        return planes[0], planes[1]

    def _subarachnoid(self, plane: Plane, depth: Image, sulcus_field: Image, fine_field: Image) -> Image:
        x, y, z = np.abs(plane.x), plane.y, plane.z
        reach = 17.0 + 4.0 * fine_field  # depth of a sulcus, mm
        sulci = np.minimum(self.sulcus_mm - _SULCUS_SCALE_MM * np.abs(sulcus_field), reach - depth)
        sulci = np.minimum(sulci, -self._cerebellum(plane))
        fissure = np.minimum(0.7 + 0.7 * self.sulcus_mm - x, self._fissure_reach(plane))
        space = np.maximum(sulci, fissure)
        for start, end, radius in _CISTERNS:
            space = np.maximum(space, _capsule(x, y, z, start, end, radius * (0.7 + 0.3 * self.sulcus_mm)))
        return space

    @staticmethod
    def _fissure_reach(plane: Plane) -> Image:
        """Return the signed distance (mm, positive inside) to the gap between the hemispheres.

        The gap lies in front of, behind and above the corpus callosum.
        """
        if plane.z > 36.0:
            return np.full_like(plane.x, 50.0)
        callosum = 38.0 - 0.5 * max(plane.z, 0.0)  # half-length of the corpus callosum
        return (np.abs(plane.y) if plane.z > TENTORIUM_Z else -plane.y) - np.float32(callosum)

    def _ventricles(self, plane: Plane) -> Image:
        x, y, z = np.abs(plane.x), plane.y, plane.z
        third = ellipsoid(plane.x, y, z, (0.0, 2.0, -3.0), (2.6 + 0.4 * self.ventricle_mm, 17.0, 13.0))
        fourth = ellipsoid(plane.x, y, z, (0.0, 36.0, -34.0), (9.0, 6.0, 13.0))
        space = np.maximum(third, fourth)
        for start, end, radius in _LATERAL_VENTRICLE:
            lateral = _capsule(x, y, z, start, end, radius + self.ventricle_mm)
            space = np.maximum(space, np.minimum(lateral, x - 1.0))  # leaves the septum
        return space

    def _parenchyma(self, plane: Plane, depth: Image, sulcus_field: Image, fine_field: Image) -> Image:
        x, y, z = np.abs(plane.x), plane.y, plane.z
        to_surface = np.minimum(depth, np.where(depth < 24.0, _SULCUS_SCALE_MM * np.abs(sulcus_field), 50.0))
        to_surface = np.minimum(to_surface, np.where(self._fissure_reach(plane) > 0, x, 50.0))
        brain = blend(np.full_like(x, WHITE_MATTER), GREY_MATTER, coverage((4.5 - to_surface).astype(np.float32), 2.5))
        for centre, half_axes in _DEEP_GREY:
            brain = blend(brain, GREY_MATTER, coverage(ellipsoid(x, y, z, centre, half_axes), 3.0))
        brain = blend(brain, CEREBELLUM + 1.5 * fine_field, coverage(self._cerebellum(plane), 3.0))
        return brain + np.float32(0.8) * fine_field

    @staticmethod
    def _cerebellum(plane: Plane) -> Image:
        """Return the signed distance to the space below the tentorium and behind the brainstem."""
        roof = TENTORIUM_Z - plane.z + 0.3 * (25.0 - np.abs(plane.x))  # the tentorium is shaped like a tent
        return np.minimum(roof, plane.y - 14.0 - 0.35 * np.abs(plane.x)).astype(np.float32)

    def _falx(self, hu: Image, plane: Plane, depth: Image) -> Image:
        """Draw the falx, a sheet in the midline, and the superior sagittal sinus at the back."""
        thin = np.minimum(0.5 - np.abs(plane.x), np.minimum(self._fissure_reach(plane), depth))
        hu = blend(hu, FALX, 0.8 * coverage(thin, plane.edge_mm))
        if plane.z < TENTORIUM_Z:
            return hu
        sinus = np.minimum(4.0 - np.abs(plane.x) - depth, plane.y)
        return blend(hu, 48.0, coverage(np.minimum(sinus, depth), plane.edge_mm))

    def _skull_base(self, plane: Plane, depth: Image) -> Image:
        """Return the signed distance to the bone of the base, of which there is more the lower the section."""
        x, y = np.abs(plane.x), plane.y
        low = SKULL_BASE_Z - plane.z  # mm below the top of the ridges
        if low <= 0:
            return np.full_like(x, -50.0)
        width = min(2.0 + 0.4 * low, 10.0)
        petrous = _capsule(x, y, 0.0, (64.0, 26.0, 0.0), (13.0, 2.0 + 0.15 * low, 0.0), width)
        petrous += np.float32(0.07) * (x - 30.0)  # petrous ridges are wedges, wider at the side
        sphenoid = _capsule(x, y, 0.0, (62.0, -34.0, 0.0), (8.0, -24.0, 0.0), width - 2.0)
        clivus = ellipsoid(plane.x, y, 0.0, (0.0, -12.0, 0.0), (0.9 * width + 4.0, 0.8 * width + 2.0, 1.0))
        thick = np.minimum(0.25 * low - depth, 10.0)  # the vault becomes thicker, too
        front = np.minimum(-36.0 - y - 0.2 * x, low - 10.0)  # roof of the orbits
        return np.minimum(np.maximum.reduce([petrous, sphenoid, clivus, thick, front]), depth + 1.0)

    @staticmethod
    def _air_cells(hu: Image, plane: Plane, bone: Image, fine_field: Image) -> Image:
        """Draw air in the bone of the base: mastoid cells at the sides, ethmoid and sphenoid sinuses in the middle."""
        x, y, z, edge = np.abs(plane.x), plane.y, plane.z, plane.edge_mm
        mastoid = np.minimum(ellipsoid(x, y, z, (61.0, 28.0, -44.0), (15.0, 13.0, 14.0)), 4.0 * (fine_field + 0.3))
        hu = blend(hu, -750.0, coverage(np.minimum(mastoid, bone), edge))
        midline = ellipsoid(plane.x, y, z, (0.0, -50.0, -52.0), (11.0, 30.0, 14.0))
        cells = np.minimum(midline, 5.0 * (np.abs(fine_field) - 0.25))
        return blend(hu, AIR, coverage(np.minimum(cells, bone), edge))

    @staticmethod
    def _orbits(hu: Image, plane: Plane) -> Image:
        """Draw the orbits: a cone of fat that contains the globe, its lens and the optic nerve."""
        x, y, z, edge = np.abs(plane.x), plane.y, plane.z, plane.edge_mm
        cone = np.minimum(_capsule(x, y, z, (32.0, -58.0, -52.0), (20.0, -40.0, -50.0), 14.0), x - 12.0)
        hu = blend(hu, FAT, coverage(cone, edge))
        hu = blend(hu, SKIN, coverage(_capsule(x, y, z, (31.0, -54.0, -51.0), (19.0, -30.0, -50.0), 2.5), edge))
        globe = ellipsoid(x, y, z, (33.0, -61.0, -52.0), (12.0, 12.0, 12.0))
        hu = blend(hu, MUSCLE, coverage(globe, edge))
        hu = blend(hu, VITREOUS, coverage(globe - 1.2, edge))
        return blend(hu, 80.0, coverage(ellipsoid(x, y, z, (33.5, -69.5, -52.0), (4.5, 2.0, 4.5)), edge))

    def _headrest(self, plane: Plane) -> Image:
        """Draw air, and the bowl in which the head lies: a thin shell filled with foam."""
        bowl = np.hypot(plane.scanner_x / 0.9, plane.scanner_y)
        rim = plane.scanner_y + 15.0  # the bowl is open in front
        rest = self.back_mm + 8.0
        hu = np.full_like(plane.x, AIR)
        foam = np.minimum(rest - bowl, rim)
        hu = blend(hu, FOAM, coverage(foam, plane.edge_mm))
        shell = np.minimum(1.3 - np.abs(bowl - rest), rim)
        return blend(hu, HEADREST_SHELL, coverage(shell, plane.edge_mm))


_FOLD_MM = 2.8  # step of the random fields in depth and z, and roughly along the surface
_FOLD_Z = np.arange(-70.0, 90.0, _FOLD_MM)
_FOLD_DEPTHS = 32
_FOLD_AZIMUTHS = 160
_SULCUS_SCALE_MM = 6.0  # mean distance from a zero line per unit of the field
