"""Who is in a generated competition: patients, their bleeds, their studies, and which files are odd.

Everything here is decided before the first pixel is drawn, from one random generator. Pixels have generators of their
own, one for each patient, study and slice, so that no slice depends on the order in which slices are made.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from src.errors import UserError
from src.labels import SUBTYPES
from src.sample.encoding import ENCODINGS

MIN_PATIENTS, MIN_SLICES, MIN_SIZE = 8, 4, 32
TRAIN_SHARE = 0.8
DIFFICULTIES = ("easy", "hard")
BLEEDING_SHARE = {"easy": 0.5, "hard": 0.85}  # of patients; 0.41 of the competition's studies
LENGTH_SPREAD = {"easy": 2, "hard": 8}  # slices by which a series may differ from the mean, of at most a quarter of it
SECOND_BLEED_SHARE = 0.5  # of the patients who bleed
QUIET = 3  # train patients who must not bleed: their slices are the odd ones
PATIENTS_PER_RETURN = 10  # of how many train patients one has two studies
NARROW = 404 / 512  # columns to rows of the series that is not square, as in the competition

Mixture = tuple[tuple[tuple[str, ...], float], ...]  # subtypes that one patient has together, weight

# Hard: what patients bleed of. The weights are such that, of the slices that bleed, about as many show each subtype as
# in the competition: epidural 3 %, intraparenchymal 34, intraventricular 24, subarachnoid 33, subdural 44
MIXTURE: Mixture = (
    (("subdural",), 0.14),
    (("subarachnoid",), 0.07),
    (("intraparenchymal",), 0.20),
    (("intraventricular",), 0.02),
    (("epidural",), 0.02),
    (("intraparenchymal", "intraventricular"), 0.19),
    (("subarachnoid", "intraventricular"), 0.04),
    (("subarachnoid", "subdural"), 0.09),
    (("intraparenchymal", "subarachnoid", "subdural"), 0.12),
    (("intraparenchymal", "intraventricular", "subarachnoid"), 0.08),
    (("epidural", "subdural"), 0.01),
)

_WINDOWS: tuple[tuple[str, str] | tuple[list[str], list[str]], ...] = (
    ("30", "80"),
    (["00040", "00040"], ["00080", "00080"]),
    ("40", "150"),
    (["00036", "00036"], ["00080", "00080"]),
)


@dataclass(frozen=True)
class Study:
    """One series of one patient."""

    patient: int  # index, also of the patient's random generator
    number: int  # 0 for the patient's first study
    split: str  # "train" or "test"
    patient_id: str
    study_id: str
    series_id: str
    slice_ids: tuple[str, ...]
    bleeds: tuple[str, ...]  # subtypes
    encoding: str  # key of ENCODINGS
    explicit_vr: bool
    window: tuple[str, str] | tuple[list[str], list[str]]
    rows: int
    columns: int
    tilted: bool

    def generator(self, seed: int, *index: int) -> np.random.Generator:
        """The random numbers of this study of a competition, or of one of its slices: the same in whatever order."""
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(self.patient, 1 + self.number, *index)))


def patient_generator(seed: int, patient: int) -> np.random.Generator:
    """The random numbers of what stays the same from study to study of a patient."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient,)))


@dataclass(frozen=True)
class Plan:
    """The studies, and the ids of the slices that are odd."""

    difficulty: str
    studies: tuple[Study, ...]
    truncated: tuple[str, ...]  # one in train, one in test
    constant: str
    identical: tuple[str, str]  # the second has the pixels of the first
    duplicated: tuple[str, ...]  # whose rows stand twice in the train CSV


@lru_cache(maxsize=1)
def make_plan(
    *,
    patients: int,
    slices: int,
    size: int,
    seed: int,
    difficulty: str = "easy",
    bleeding: float | None = None,
    mixture: Mixture | None = None,
) -> Plan:
    """Lay out a competition. Raises UserError where there is no room for all its oddities.

    bleeding: share of the patients who bleed. mixture: what of, with weights that need no sum. Both are a hard
    competition's, and by default BLEEDING_SHARE and MIXTURE.
    """
    if difficulty not in DIFFICULTIES:
        raise UserError(f"difficulty {difficulty!r}: expected one of {', '.join(DIFFICULTIES)}")
    if difficulty != "hard" and not (bleeding is None and mixture is None):
        raise UserError(f"--bleeding and --mixture go with --difficulty hard, not {difficulty}")
    if bleeding is not None and not 0 < bleeding < 1:
        raise UserError(f"--bleeding {bleeding}: expected a share between 0 and 1")
    for what, got, least in (
        ("patients", patients, MIN_PATIENTS),
        ("slices", slices, MIN_SLICES),
        ("size", size, MIN_SIZE),
    ):
        if got < least:
            raise UserError(f"--{what} {got}: the sample competition needs at least {least}")
    if seed < 0:
        raise UserError(f"--seed {seed}: expected 0 or more")
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    n_train = round(TRAIN_SHARE * patients)
    if difficulty == "easy":
        bleeds = _share_bleeds(n_train, rng) + _share_bleeds(patients - n_train, rng)
    else:
        share, of = BLEEDING_SHARE["hard"] if bleeding is None else bleeding, MIXTURE if mixture is None else mixture
        bleeds = _mix_bleeds(n_train, QUIET, share, of, rng) + _mix_bleeds(patients - n_train, 1, share, of, rng)
    with_blood = [index for index in range(n_train) if bleeds[index]]
    without = [index for index in range(n_train) if not bleeds[index]]
    returning = [index for pair in zip(with_blood, without, strict=False) for index in pair]
    *again, in_both = returning[: n_train // PATIENTS_PER_RETURN + 2]

    # (patient, number of the study, split)
    visits = [(index, 0, "train") for index in range(n_train)]
    visits += [(index, 1, "train") for index in again]
    visits += [(index, 0, "test") for index in range(n_train, patients)]
    visits.append((in_both, 1, "test"))

    lengths = _series_lengths(len(visits), slices, LENGTH_SPREAD[difficulty], rng)
    patient_ids = _random_ids(patients, 8, rng)
    study_ids, series_ids = _random_ids(len(visits), 10, rng), _random_ids(len(visits), 10, rng)
    slice_ids = iter(_random_ids(sum(lengths), 9, rng))
    tilted = rng.permutation(len(visits)) % 2 == 0
    names = tuple(ENCODINGS)
    studies = tuple(
        Study(
            patient=index,
            number=number,
            split=split,
            patient_id=patient_ids[index],
            study_id=study_ids[i],
            series_id=series_ids[i],
            slice_ids=tuple(next(slice_ids) for _ in range(lengths[i])),
            bleeds=bleeds[index],
            encoding=names[i % len(names)],
            explicit_vr=(i + i // len(names)) % 2 == 0,
            window=_WINDOWS[(i // 2) % len(_WINDOWS)],
            rows=size,
            columns=round(size * NARROW) if i == with_blood[-1] else size,
            tilted=bool(tilted[i]),
        )
        for i, (index, number, split) in enumerate(visits)
    )
    quiet = [studies[index] for index in without]  # a patient's first study has the patient's index
    test = next(study for study in studies if study.split == "test")
    return Plan(
        difficulty=difficulty,
        studies=studies,
        truncated=(quiet[2].slice_ids[1], test.slice_ids[1]),
        constant=quiet[2].slice_ids[0],
        identical=(_middle(quiet[0]), _middle(quiet[1])),
        duplicated=(studies[0].slice_ids[0], studies[1].slice_ids[-1]),
    )


def _share_bleeds(patients: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Give every subtype to about as many patients as any other, and to some patients two: one tuple per patient."""
    bleeding = rng.permutation(patients)[: round(BLEEDING_SHARE["easy"] * patients)]
    order = rng.permutation(np.array(SUBTYPES))
    bleeds: list[tuple[str, ...]] = [() for _ in range(patients)]
    turns = max(len(SUBTYPES), round((1 + SECOND_BLEED_SHARE) * len(bleeding)))
    for turn in range(min(turns, 2 * len(bleeding))):
        # in the second round every patient must come upon another subtype than in the first
        shift = int(turn >= len(bleeding) and len(bleeding) % len(SUBTYPES) == 0)
        bleeds[bleeding[turn % len(bleeding)]] += (str(order[(turn + shift) % len(SUBTYPES)]),)
    return bleeds


def _mix_bleeds(
    patients: int, quiet: int, bleeding: float, mixture: Mixture, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Give a share of the patients what the mixture says, each part of it as often as its weight to the nearest one.

    At least `quiet` patients do not bleed, and one does.
    """
    count = max(1, min(round(bleeding * patients), patients - quiet))
    weights = np.array([weight for _, weight in mixture])
    weights /= weights.max()
    # where the running sum of weights has reached each patient's middle: no part is more than one off its share
    which = np.searchsorted(np.cumsum(weights) / weights.sum(), (np.arange(count) + rng.random()) / count, side="right")
    given = [mixture[i][0] for i in rng.permutation(np.minimum(which, len(mixture) - 1))]
    bleeds: list[tuple[str, ...]] = [()] * patients
    for patient, subtypes in zip(rng.permutation(patients)[:count], given, strict=True):
        bleeds[patient] = subtypes
    return bleeds


def parse_mixture(text: str) -> Mixture:
    """Read `subdural=3,subdural+subarachnoid=1`. Raises UserError."""
    expected = f"expected SUBTYPE[+SUBTYPE...]=WEIGHT[,...] of {', '.join(SUBTYPES)}, weights above 0"
    parts: list[tuple[tuple[str, ...], float]] = []
    for part in text.split(","):
        names, _, weight = part.partition("=")
        subtypes = tuple(sorted(set(names.split("+"))))
        try:
            value = float(weight)
        except ValueError:
            value = 0.0
        if not set(subtypes) <= set(SUBTYPES) or not 0 < value < np.inf:
            raise UserError(f"--mixture {part!r}: {expected}")
        parts.append((subtypes, value))
    return tuple(parts)


def _series_lengths(series: int, slices: int, widest: int, rng: np.random.Generator) -> list[int]:
    """Numbers of slices that differ, with a mean of about `slices`."""
    spread = min(widest, max(2, slices // 4), slices - MIN_SLICES)
    around = np.resize(np.arange(-spread, spread + 1), series)
    return [int(slices + extra) for extra in rng.permutation(around)]


def _random_ids(count: int, digits: int, rng: np.random.Generator) -> list[str]:
    """Different ids `ID_<hexadecimal>` whose order says nothing."""
    ids: dict[str, None] = {}
    while len(ids) < count:
        ids[f"ID_{int(rng.integers(16**digits)):0{digits}x}"] = None
    return list(ids)


def _middle(study: Study) -> str:
    return study.slice_ids[len(study.slice_ids) // 2]
