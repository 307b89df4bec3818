"""Generated heads in memory, with what is known of them: the series that a detector reads, and where blood is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from src.ct.hounsfield import to_hounsfield
from src.ct.series import Series
from src.synthetic.encoding import ENCODINGS
from src.synthetic.make_competition import SCANS
from src.synthetic.plan import make_plan
from src.synthetic.rendered import RenderedSlice


@dataclass(frozen=True)
class HeadCT:
    """A study of S slices. labels: (S, 6) of 0 and 1; pixel_mm: between pixels, along rows and columns."""

    patient: int
    series: Series
    labels: np.ndarray
    rendered: list[RenderedSlice]
    pixel_mm: float


def generate(patients: int, slices: int, size: int, seed: int, difficulty: str = "hard") -> Iterator[HeadCT]:
    """All studies of a generated competition, one after the other, as they are in its files, but for the odd ones.

    patients, slices, size, seed, difficulty: as in `make_competition`.
    """
    plan = make_plan(patients=patients, slices=slices, size=size, seed=seed, difficulty=difficulty)
    for study in plan.studies:
        scan, encoding = SCANS[difficulty].of(study, seed), ENCODINGS[study.encoding]
        rendered = [scan.slice(index) for index in range(len(study.slice_ids))]
        pixels = [
            to_hounsfield(
                each.stored,
                slope=1.0,
                intercept=encoding.intercept,
                bits_stored=encoding.bits_stored,
                pixel_representation=int(encoding.signed),
            )
            for each in rendered
        ]
        z = np.array(
            [each.header.position[2] for each in rendered]
        )  # close to that along the normal, in the same order
        yield HeadCT(
            patient=study.patient,
            series=Series([np.rint(each).astype(np.int16) for each in pixels], z, list(study.slice_ids)),
            labels=np.stack([each.labels for each in rendered]),
            rendered=rendered,
            pixel_mm=rendered[0].header.pixel_mm,
        )
