"""Make atlas.npz, the anatomy of the hard heads, from the T1-weighted MRI of one man: Colin 27.

Colin27 is the mean of 27 scans of one head at 1 mm (Holmes et al., J Comput Assist Tomogr 22:324, 1998), in MNI space.
On MRI both bone and air are dark; they are distinguished by their position. This script is needed only to change the
atlas. Its input, `ch2.nii.gz` and `ch2bet.nii.gz` (the same image with only the brain), comes with MRIcron.
"""

import gzip
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from src.synthetic.hard.atlas import ATLAS_PATH, MM_PER_STEP, ZERO_MM

Mask = NDArray[np.bool_]
Volume = NDArray[np.floating[Any]]

ORIGIN = (-71.0, -125.0, -90.0)  # MNI z, y, x of the first voxel, mm
MARGIN = 16  # voxels added around a volume before masks are grown
CSF_T1, WHITE_T1 = 42.0, 114.0  # mean intensities
GREY_T1_HU = (  # T1 outside the skull -> HU: air, skin and muscle, fat
    (0.0, -1000.0),
    (10.0, -1000.0),
    (30.0, 20.0),
    (78.0, 58.0),
    (96.0, -30.0),
    (118.0, -95.0),
    (255.0, -105.0),
)
# The regions that contain the ventricles: capsules with start (|x|, y, z), end (|x|, y, z) and radius, in MNI mm
VENTRICLES = (
    ((14, 32, 4), (7, 8, 18), 9),  # frontal horn
    ((7, 8, 18), (14, -20, 24), 9),  # body
    ((14, -20, 24), (25, -40, 8), 9),  # atrium
    ((25, -40, 8), (22, -62, 4), 7),  # occipital horn
    ((27, -42, 4), (32, -12, -18), 6),  # temporal horn
    ((0, 2, 0), (0, -24, 2), 7),  # third
    ((0, -46, -32), (0, -42, -24), 9),  # fourth
)
# Deep grey matter that is nearly as bright as white matter on T1: centre (|x|, y, z), half-axes
DEEP_GREY = (((26, 2, 1), (8, 18, 11)), ((11, -18, 7), (9, 14, 9)), ((12, 14, 8), (6, 9, 12)))
SMALLEST_BONE = 400  # mm^3
TEMPORAL_POLE = ((32, 3, -46), (16, 18, 9))


def read_nifti(path: Path) -> Volume:
    """Read a volume of uint8 from a NIfTI-1 file (Cox et al., 2004): (z, y, x)."""
    content = gzip.decompress(path.read_bytes())
    columns, rows, planes = np.frombuffer(content, "<i2", 3, offset=42).astype(int)
    start = int(np.frombuffer(content, "<f4", 1, offset=108)[0])
    return np.frombuffer(content, np.uint8, columns * rows * planes, offset=start).reshape(planes, rows, columns) * 1.0


def distance(mask: Mask) -> Volume:
    """Return the depth within a mask in mm (1 mm voxels); beyond the volume, the mask continues as at its border."""
    padded = np.pad(mask, MARGIN, mode="edge")
    return ndimage.distance_transform_edt(padded)[(slice(MARGIN, -MARGIN),) * 3].astype(np.float32)


def signed(mask: Mask) -> Volume:
    """Return the signed distance to the border of a mask: mm, positive inside."""
    return distance(mask) - distance(~mask) - np.where(mask, 0.5, -0.5).astype(np.float32)


def grow(mask: Mask, mm: float | Volume) -> Mask:
    """Return all voxels within a distance of a mask."""
    return distance(~mask) <= mm


def close(mask: Mask, mm: float) -> Mask:
    """Fill holes and clefts narrower than twice a distance."""
    padded = np.pad(mask, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    padded = np.concatenate([np.repeat(padded[:1], MARGIN, axis=0), padded])  # the neck continues below the volume
    padded = ndimage.distance_transform_edt(~padded) <= mm
    padded = ndimage.distance_transform_edt(padded) > mm
    return padded[MARGIN:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def largest(mask: Mask) -> Mask:
    """Return the largest connected part of a mask."""
    numbers, _ = ndimage.label(mask)
    return numbers == np.argmax(np.bincount(numbers.ravel())[1:]) + 1


def fill(mask: Mask) -> Mask:
    """Fill enclosed holes, section by section."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])


def smooth(mask: Mask, sigma: float) -> Mask:
    """Round off corners."""
    return ndimage.gaussian_filter(mask.astype(np.float32), sigma) > 0.5


def ball(radius: int) -> Mask:
    """Return a spherical structuring element."""
    grid = np.mgrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    return (grid**2).sum(0) <= radius**2


def capsule(coordinates: tuple[Volume, Volume, Volume], start: tuple[int, ...], end: tuple[int, ...]) -> Volume:
    """Return the distance in mm of (x, y, z) from a line segment."""
    axis = np.subtract(end, start).astype(np.float32)
    offsets = [each - first for each, first in zip(coordinates, start, strict=True)]
    along = sum(offset * component for offset, component in zip(offsets, axis, strict=True))
    fraction = np.clip(along / np.float32(axis @ axis), 0.0, 1.0)
    return np.sqrt(sum((offset - fraction * c) ** 2 for offset, c in zip(offsets, axis, strict=True)))


def ellipsoid(coordinates: tuple[Volume, Volume, Volume], centre: tuple[int, ...], half_axes: tuple[int, ...]) -> Mask:
    """Return all voxels within an ellipsoid."""
    parts = zip(coordinates, centre, half_axes, strict=True)
    return np.sum([((each - middle) / half) ** 2 for each, middle, half in parts], axis=0) < 1


def make_atlas(t1: Volume, brain: Mask) -> dict[str, NDArray[np.uint8]]:
    """Segment the tissues of an MRI. Returns the arrays that `atlas.Atlas` reads."""
    z, y, x = np.meshgrid(*(o + np.arange(n) for o, n in zip(ORIGIN, t1.shape, strict=True)), indexing="ij")
    ax = np.abs(x)
    brain = brain & ((z > -22) | (ndimage.gaussian_filter(t1, 1.0) > 42) | (ax + np.abs(y + 20) < 30))
    t1 = np.where((ax > 88) | (y > 89), 0.0, t1)  # ears and nose end where the scan does; beyond is air
    head = _head(ax, z, t1)
    below_skin = distance(head)
    cavity = _cavity(x, y, z, t1, brain, head, below_skin)
    globe = np.sqrt((ax - 35) ** 2 + (y - 57) ** 2 + (z + 36) ** 2) < 13
    bone, air = _bone_and_air(ax, y, z, t1, head, cavity, globe, below_skin)
    ventricle = _ventricle((ax, y, z), t1, cavity)
    outside = _outside(z, t1, head, cavity, globe, bone, air, below_skin)
    return {
        "outside": encode_soft(ndimage.gaussian_filter(outside, 0.35)),
        "bone": encode_distance(_even(signed(bone), z)),
        "cavity": encode_distance(_even(signed(cavity), z)),
        "dura": encode_fraction(_dura(ax, y, z, t1, cavity, brain)),
        "tissue": encode_fraction(_tissue((ax, y, z), t1, brain, cavity)),
        "ventricle": encode_distance(ndimage.gaussian_filter(signed(ventricle), 0.4), lowest=-ZERO_MM),
    }


def _head(ax: Volume, z: Volume, t1: Volume) -> Mask:
    """Return everything within the skin."""
    raw = largest(ndimage.binary_opening(ndimage.gaussian_filter(t1, 0.7) > 14, ball(2)))
    head = np.where((ax > 76) & (z < -10), raw, fill(raw | close(raw, 9)))
    head &= distance(head) > np.interp(z, (20, 60), (0, 4))  # Colin's scalp is thick at the vertex
    return head


def _cavity(x: Volume, y: Volume, z: Volume, t1: Volume, brain: Mask, head: Mask, below_skin: Volume) -> Mask:
    """Return everything within the skull, down to the foramen magnum, and the spinal canal below it."""
    cavity = (close(brain, 8) & ((t1 > 21) | (z > 15))) | (close(brain, 15) & (z > 55))
    cavity = smooth(grow(cavity & head, 1.0), 1.5)
    cavity = fill(largest(cavity & (below_skin > 6))) & (
        (z > -25) | grow(brain, np.where((y > -10) & (z < -35), 1.5, 4.0))
    )
    cavity = np.where(z < -35, smooth(cavity, 3.0), cavity)
    cavity &= ~((z < -56) & (np.hypot(x, y + 45) > 17))  # below the foramen magnum, only the canal continues
    return cavity


def _bone_and_air(
    ax: Volume,
    y: Volume,
    z: Volume,
    t1: Volume,
    head: Mask,
    cavity: Mask,
    globe: Mask,
    below_skin: Volume,
) -> tuple[Mask, Mask]:
    """Separate the dark voxels of a head into bone and air. globe: the eyes."""
    skin = (below_skin > 0) & (below_skin < 2.2)
    soft = (ndimage.gaussian_filter(t1, 0.5) >= 46) & head & ~cavity
    soft = ndimage.binary_opening(soft | globe | skin, ball(1)) | globe | skin
    numbers, _ = ndimage.label(soft)
    soft = np.isin(numbers, np.setdiff1d(numbers[skin], 0))  # bright marrow is not connected to the skin
    dark = head & ~cavity & ~soft
    air = dark & (ndimage.gaussian_filter(t1, 0.6) < 30) & (below_skin > 4) & _sinuses(ax, y, z)
    air &= np.where((y > 52) & (z > -24), distance(dark) > 2.5, distance(~cavity) > 1.3)
    air = ndimage.binary_opening(air, ball(1))
    walls = grow(air, 1.2) & ~air & head & ~cavity & (below_skin > 5) & (z < -15)
    bone = smooth((dark & ~air & (below_skin > 4)) | walls, 0.6) & ~(close(air, 8) & (ax < 14))
    numbers, _ = ndimage.label(bone)
    bone &= np.bincount(numbers.ravel())[numbers] > SMALLEST_BONE  # smaller parts are vessels
    bone &= (y > -80) | grow(cavity, 13.0)  # excludes the ligament of the neck
    return bone, air


def _ventricle(coordinates: tuple[Volume, Volume, Volume], t1: Volume, cavity: Mask) -> Mask:
    ax, y, z = coordinates
    ventricle = np.zeros_like(cavity)
    for start, end, radius in VENTRICLES:
        ventricle |= capsule(coordinates, start, end) < radius
    ventricle &= (t1 < 64) & cavity & ~((ax < 9) & (y < -27) & (z > -20))  # excludes the cisterns behind the third
    return smooth(ndimage.binary_opening(ventricle), 0.6)


def _tissue(coordinates: tuple[Volume, Volume, Volume], t1: Volume, brain: Mask, cavity: Mask) -> Volume:
    """Return the tissue coordinate: 0 fluid, 1 white matter."""
    tissue = np.where(brain, (t1 - CSF_T1) / (WHITE_T1 - CSF_T1), 0.0)
    deep = np.any([ellipsoid(coordinates, *each) for each in DEEP_GREY], axis=0).astype(np.float32)
    tissue -= 0.14 * ndimage.gaussian_filter(deep, 1.5) * ((tissue > 0.55) & (tissue < 0.95))
    pole = ellipsoid(coordinates, *TEMPORAL_POLE) & (distance(cavity) > 1)  # the scan has no signal here
    return np.where(pole, np.maximum(tissue, 0.55), tissue)


def _outside(
    z: Volume,
    t1: Volume,
    head: Mask,
    cavity: Mask,
    globe: Mask,
    bone: Mask,
    air: Mask,
    below_skin: Volume,
) -> Volume:
    """Return the HU outside the skull."""
    levels, hu = np.array(GREY_T1_HU).T
    outside = np.interp(ndimage.gaussian_filter(t1, 0.4), levels, hu)
    outside = np.where(globe, 12.0, outside)
    outside = np.where((below_skin > 0) & (below_skin < 1.2), np.maximum(outside, 15.0), outside)
    outside = np.where((below_skin >= 1.2) & (z > 38), -95.0, outside)  # fat above the temporal muscle
    outside = np.where(bone, 48.0, outside)  # shows where a patient's bone is thinner
    outside = np.where(air | ~head, -1000.0, outside)
    return np.where(cavity & (distance(cavity) > 3), 40.0, outside)  # never visible


def _even(mm: Volume, z: Volume) -> Volume:
    """Smooth the voxel steps of a surface: more in the vault, which is smooth, than in the base, which is not."""
    fraction = np.clip((z + 5.0) / 15.0, 0.0, 1.0)
    return (1.0 - fraction) * ndimage.gaussian_filter(mm, 0.5) + fraction * ndimage.gaussian_filter(mm, 1.5)


def _sinuses(ax: Volume, y: Volume, z: Volume) -> Mask:
    """Return the regions where dark voxels are air: nose, sphenoid, maxillary and frontal sinuses, pharynx."""
    nose = (ax < 19) & (y > -10) & (z < -6)
    maxillary = (ax < 42) & (ax > 10) & (y > 14) & (y < 62) & (z < -40)
    frontal = (ax < 30) & (y > 52) & (z < 6) & (z > -30)
    pharynx = (ax < 16) & (y > -22) & (y < 20) & (z < -52)
    return smooth(nose | maxillary | frontal | pharynx, 4.0)  # anatomy has no corners


def _dura(ax: Volume, y: Volume, z: Volume, t1: Volume, cavity: Mask, brain: Mask) -> Volume:
    """Return the fraction of dura and its venous sinuses: falx, tentorium, sagittal and transverse sinus."""
    depth = distance(cavity)
    dark = cavity & (t1 < 66)
    falx = (ax < 1.6) & (z > -14) & ~((np.abs(y) < 34) & (z < 34))
    roof = 2.0 - 0.36 * (-40.0 - y) - 0.42 * ax
    tentorium = (np.abs(z - roof) < 4) & (y < -38) & (ax > 3)
    sagittal = (ax < 5.0 - 0.7 * depth) & (z > -12) & (depth < 7) & cavity
    transverse = cavity & (~brain | (t1 < 60)) & (y < -48) & (z < 2) & (z > -38) & (depth < 9) & (depth > 0.5)
    sheets = 0.95 * ndimage.gaussian_filter(((falx | tentorium) & dark).astype(np.float32), 0.6)
    return np.maximum(sheets, ndimage.gaussian_filter((sagittal | transverse).astype(np.float32), 0.7))


def encode_distance(mm: Volume, lowest: float = -4.0) -> NDArray[np.uint8]:
    """Encode distances in mm as uint8. Only even values are used, which keeps the file small."""
    return (2 * np.clip(np.rint((mm.clip(lowest, 23.0) + ZERO_MM) / (2 * MM_PER_STEP)), 0, 127)).astype(np.uint8)


def encode_fraction(fraction: Volume) -> NDArray[np.uint8]:
    """Encode fractions as uint8. Only multiples of 4 are used, which keeps the file small and errors below 1 HU."""
    return (np.clip(np.rint(fraction * 63.0), 0, 63) * 4).astype(np.uint8)


def encode_soft(hu: Volume) -> NDArray[np.uint8]:
    """Encode HU outside bone and brain as uint8: 10 HU per step from -1000 to -130 (0..87), 2 HU per step above."""
    steps = np.where(hu < -130, (hu + 1000) / 10, 87 + (hu + 130) / 2)
    return (3 * np.rint(steps.clip(0, 255) / 3)).astype(np.uint8)


def main() -> None:
    """Read arguments, make the atlas and write it."""
    parser = ArgumentParser(prog="python -m src.synthetic.hard.make_atlas", description=__doc__)
    parser.add_argument("t1", type=Path, help="path of ch2.nii.gz")
    parser.add_argument("brain", type=Path, help="path of ch2bet.nii.gz")
    args = parser.parse_args()
    arrays = make_atlas(read_nifti(args.t1), read_nifti(args.brain) > 0)
    # turn to DICOM's directions: x to the patient's left, y to the back
    turned = {name: array[:, ::-1, ::-1] for name, array in arrays.items()}
    np.savez_compressed(ATLAS_PATH, **turned)  # type: ignore[arg-type]
    print(f"{ATLAS_PATH}: {ATLAS_PATH.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
