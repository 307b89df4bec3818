"""Damaged compressed images: whatever is changed, an image or a reason comes out, and the process goes on.

Some hundreds of changes a syntax here; `FUZZ=20000 python -m pytest tests/dicom/test_fuzz.py` makes more.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from src.dicom import REASONS, UnreadableDicom, clipped_hounsfield_of, read_stored
from src.dicom.pixels import parse_stored

COUNT = int(os.environ.get("FUZZ", "150"))
SYNTAXES = ("JPEGBaselineProcess1", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless")


@pytest.fixture(params=SYNTAXES)
def compressed(request: pytest.FixtureRequest, tmp_path: Path, compress: Callable[[Path, Path, str], None]) -> bytes:
    """A sound file of 64 x 64 pixels, compressed."""
    source = Path(__file__).parent / f"cases/{'le8ob' if 'Baseline' in request.param else 'mono2_same_values'}.dcm"
    compress(Path(shutil.copy(source, tmp_path / "plain.dcm")), tmp_path / "compressed.dcm", request.param)
    stored, _ = read_stored(tmp_path / "compressed.dcm")
    if "Baseline" not in request.param:
        np.testing.assert_array_equal(stored, read_stored(source)[0])
    return (tmp_path / "compressed.dcm").read_bytes()


def _damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed, cut out or doubled, half of the time in the first bytes of the compressed image."""
    pixels = data.index(b"\xe0\x7f\x10\x00OB")
    changed = bytearray(data)
    for _ in range(random.integers(1, 4)):
        end = min(pixels + 120, len(changed)) if random.random() < 0.5 else len(changed)
        at, kind = int(random.integers(pixels, max(end, pixels + 1))), random.integers(6)
        at = min(at, len(changed) - 1)
        if kind == 0:
            del changed[at : at + int(random.integers(1, 50))]
        elif kind == 1:
            changed[at:at] = changed[at : at + int(random.integers(1, 50))]
        elif kind == 2:
            changed[at] = (0, 1, 0x7F, 0x80, 0xFF)[random.integers(5)]
        else:
            changed[at] ^= 1 << int(random.integers(8))
    return bytes(changed)


def test_damage_ends_in_an_image_or_a_reason(compressed: bytes) -> None:
    random, refused = np.random.default_rng(0), []
    for _ in range(COUNT):
        damaged = _damaged(compressed, random)
        try:
            hu = clipped_hounsfield_of(*parse_stored(damaged))
        except UnreadableDicom as error:
            refused.append(error)
        else:
            assert hu.shape == (64, 64)
    reasons = {error.reason for error in refused}
    assert reasons <= set(REASONS)
    assert "undecodable" in reasons
    assert not any("\n" in str(error) for error in refused)
    assert sum("decoder import serve" in " ".join(each.cmdline()) for each in _alive()) <= 1


def _alive() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
