"""Draw the slices of many DICOM files side by side in one picture, as a radiologist would look at them."""

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from src.arguments import Parser, positive
from src.ct.windows import apply_windows
from src.dicom import UnreadableDicom, read_hounsfield
from src.errors import UserError, first_few, run_command
from src.files.atomic import replacing

_log = logging.getLogger(__name__)

_BLACK = np.full((2, 2), -1000, dtype=np.float32)  # air
VIEWS = {"brain": 0, "blood": 1, "soft": 2}  # channel of THREE_WINDOWS


def montage(paths: Sequence[Path], views: Sequence[str], size: int, columns: int) -> np.ndarray:
    """Draw DICOM files as tiles of size x size: (rows, columns, 3) uint8 BGR.

    Each of `views` (names of VIEWS, or "all": the three windows as red, green and blue) has its own block of rows. The
    place of a file that is not a readable slice stays black, and a warning names it. Raises UserError where none is
    readable.
    """
    slices, unreadable = [], []
    for path in paths:
        try:
            slices.append(read_hounsfield(path))
        except UnreadableDicom as error:
            slices.append(_BLACK)
            unreadable.append(f"{path} ({error.reason}: {error})")
    if len(unreadable) == len(slices):
        raise UserError(f"none of {len(slices)} files is a readable slice: {first_few(unreadable)}")
    for each in unreadable:
        _log.warning("left black: %s", each)
    tiles = [_tile(hu, view, size) for view in views for hu in _padded(slices, columns)]
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return np.vstack(rows)


def _padded(slices: list[np.ndarray], columns: int) -> list[np.ndarray]:
    return slices + [_BLACK] * (-len(slices) % columns)


def _tile(hu: np.ndarray, view: str, size: int) -> np.ndarray:
    windows = apply_windows(hu)  # (rows, columns, 3)
    if view != "all":
        windows = np.repeat(windows[..., VIEWS[view], None], 3, axis=2)
    scale = size / max(hu.shape)
    shape = (round(hu.shape[1] * scale), round(hu.shape[0] * scale))
    small = cv2.resize(windows[..., ::-1], shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    tile = np.zeros((size, size, 3), dtype=np.float32)
    top, left = (size - small.shape[0]) // 2, (size - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return np.rint(np.clip(tile, 0, 1) * 255).astype(np.uint8)


def main() -> None:
    """Read the arguments, draw the picture, and write it."""
    parser = Parser(
        prog="python -m src.report.montage",
        description=__doc__,
        epilog="example: python -m src.report.montage input/stage_2_test/*.dcm --views brain --output slices.png",
    )
    parser.add_argument("files", type=Path, nargs="+", help="DICOM files, drawn in this order")
    parser.add_argument("--views", nargs="+", choices=(*VIEWS, "all"), default=["all"], help="a block of rows for each")
    parser.add_argument("--size", type=positive, default=256, help="side of a tile in pixels (default 256)")
    parser.add_argument("--columns", type=positive, default=6, help="tiles in a row (default 6)")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    args = parser.parse_args()
    if args.output.suffix.lower() != ".png":
        raise UserError(f"--output {args.output}: expected a name that ends with .png")
    picture = montage(args.files, args.views, args.size, args.columns)
    with replacing(args.output) as temporary:
        cv2.imwrite(str(temporary), picture)
    print(f"{args.output}: {len(args.files)} slices, {picture.shape[1]} x {picture.shape[0]} pixels")


if __name__ == "__main__":
    run_command(main)
