"""Plan a generated competition: patients, their bleeds, their studies, and which files are odd.

Everything here is decided by one random generator before the first pixel is drawn. Pixels have their own generators,
one for each patient, study and slice, so that no slice depends on the order in which slices are rendered.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from src.errors import UserError
from src.labels import SUBTYPES
from src.synthetic.encoding import ENCODINGS

MIN_PATIENTS, MIN_SLICES, MIN_SIZE = 8, 4, 32
TRAIN_FRACTION = 0.8
DIFFICULTIES = ("easy", "hard")
BLEEDING_FRACTION = {"easy": 0.5, "hard": 0.85}  # of patients; 0.41 of the competition's studies bleed
LENGTH_SPREAD = {"easy": 2, "hard": 8}  # largest deviation from the mean slices per series; also at most 1/4 of it
SECOND_BLEED_FRACTION = 0.5  # of the easy patients who bleed: how many have two subtypes
QUIET = 3  # train patients who must not bleed, because odd slices are taken from them
PATIENTS_PER_RETURN = 10  # one in so many train patients has a second study
NARROW = 404 / 512  # ratio of columns to rows in the series that is not square, as in the competition

Visit = tuple[int, int, str]  # patient, number of the study, split
Mixture = tuple[tuple[tuple[str, ...], float], ...]  # subtypes that one patient has together, and their weight

# The subtypes of hard patients. With these weights each subtype is about as frequent among bleeding slices as in the
# competition: epidural 3 %, intraparenchymal 34 %, intraventricular 24 %, subarachnoid 33 %, subdural 44 %
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

    patient: int  # index, which also selects the patient's random generator
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
        """Return the random generator of this study, or of one of its slices; the order of calls does not matter."""
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(self.patient, 1 + self.number, *index)))


def patient_generator(seed: int, patient: int) -> np.random.Generator:
    """Return the random generator for everything that stays the same in all studies of a patient."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient,)))


@dataclass(frozen=True)
class Plan:
    """The studies, and the ids of the odd slices."""

    difficulty: str
    studies: tuple[Study, ...]
    truncated: tuple[str, ...]  # one in train, one in test
    constant: str
    identical: tuple[str, str]  # the second has the pixels of the first
    duplicated: tuple[str, ...]  # slices whose rows appear twice in the train CSV


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
    """Plan a competition. Raises UserError if it would be too small for all its oddities.

    bleeding: fraction of patients who bleed. mixture: subtypes and their weights, which need not sum to 1. Both apply
    to hard competitions only and default to BLEEDING_FRACTION and MIXTURE.
    """
    _check_settings(patients, slices, size, seed, difficulty, bleeding, mixture)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    n_train = round(TRAIN_FRACTION * patients)
    if difficulty == "easy":
        bleeds = _spread_bleeds(n_train, rng) + _spread_bleeds(patients - n_train, rng)
    else:
        bleeding = BLEEDING_FRACTION["hard"] if bleeding is None else bleeding
        mixture = MIXTURE if mixture is None else mixture
        bleeds = _mix_bleeds(n_train, QUIET, bleeding, mixture, rng)
        bleeds += _mix_bleeds(patients - n_train, 1, bleeding, mixture, rng)
    with_blood = [index for index in range(n_train) if bleeds[index]]
    without = [index for index in range(n_train) if not bleeds[index]]
    visits = _make_visits(patients, n_train, with_blood, without)
    lengths = _series_lengths(len(visits), slices, LENGTH_SPREAD[difficulty], rng)
    studies = _make_studies(visits, bleeds, lengths, size, with_blood[-1], rng)

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


def _check_settings(
    patients: int,
    slices: int,
    size: int,
    seed: int,
    difficulty: str,
    bleeding: float | None,
    mixture: Mixture | None,
) -> None:
    if difficulty not in DIFFICULTIES:
        raise UserError(f"difficulty {difficulty!r}: expected one of {', '.join(DIFFICULTIES)}")
    if difficulty != "hard" and not (bleeding is None and mixture is None):
        raise UserError(f"bleeding and mixture can be chosen for difficulty hard only, not for {difficulty}")
    if bleeding is not None and not 0 < bleeding < 1:
        raise UserError(f"bleeding {bleeding}: expected a fraction between 0 and 1")
    for what, got, least in (
        ("patients", patients, MIN_PATIENTS),
        ("slices", slices, MIN_SLICES),
        ("size", size, MIN_SIZE),
    ):
        if got < least:
            raise UserError(f"{what} {got}: expected at least {least}")
    if seed < 0:
        raise UserError(f"seed {seed}: expected 0 or more")


def _make_visits(patients: int, n_train: int, with_blood: list[int], without: list[int]) -> list[Visit]:
    """List who is scanned when: some train patients have a second study, one of them in test."""
    returning = [index for pair in zip(with_blood, without, strict=False) for index in pair]
    *again, in_both = returning[: n_train // PATIENTS_PER_RETURN + 2]
    visits = [(index, 0, "train") for index in range(n_train)]
    visits += [(index, 1, "train") for index in again]
    visits += [(index, 0, "test") for index in range(n_train, patients)]
    visits.append((in_both, 1, "test"))
    return visits


def _make_studies(
    visits: list[Visit],
    bleeds: list[tuple[str, ...]],
    lengths: list[int],
    size: int,
    narrow: int,
    rng: np.random.Generator,
) -> tuple[Study, ...]:
    """Draw ids and formats for all visits. lengths: slices per visit; narrow: the visit whose series is not square."""
    patient_ids = _random_ids(len(bleeds), 8, rng)
    study_ids, series_ids = _random_ids(len(visits), 10, rng), _random_ids(len(visits), 10, rng)
    slice_ids = iter(_random_ids(sum(lengths), 9, rng))
    tilted = rng.permutation(len(visits)) % 2 == 0
    names = tuple(ENCODINGS)
    return tuple(
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
            columns=round(size * NARROW) if i == narrow else size,
            tilted=bool(tilted[i]),
        )
        for i, (index, number, split) in enumerate(visits)
    )


def _spread_bleeds(patients: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Give each subtype to about equally many patients, and two subtypes to some: one tuple per patient."""
    bleeding = rng.permutation(patients)[: round(BLEEDING_FRACTION["easy"] * patients)]
    order = rng.permutation(np.array(SUBTYPES))
    bleeds: list[tuple[str, ...]] = [() for _ in range(patients)]
    turns = max(len(SUBTYPES), round((1 + SECOND_BLEED_FRACTION) * len(bleeding)))
    for turn in range(min(turns, 2 * len(bleeding))):
        # in the second round every patient must get another subtype than in the first
        shift = int(turn >= len(bleeding) and len(bleeding) % len(SUBTYPES) == 0)
        bleeds[bleeding[turn % len(bleeding)]] += (str(order[(turn + shift) % len(SUBTYPES)]),)
    return bleeds


def _mix_bleeds(
    patients: int, quiet: int, bleeding: float, mixture: Mixture, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Give a fraction of the patients the mixture's subtypes, each combination as often as its weight requires.

    At least `quiet` patients do not bleed, and at least one does. Returns one tuple per patient.
    """
    count = max(1, min(round(bleeding * patients), patients - quiet))
    weights = np.array([weight for _, weight in mixture])
    weights /= weights.max()
    # equal steps through the running sum of weights keep each combination within one patient of its expected number
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
            raise UserError(f"mixture {part!r}: {expected}")
        parts.append((subtypes, value))
    return tuple(parts)


def _series_lengths(series: int, slices: int, widest: int, rng: np.random.Generator) -> list[int]:
    """Draw different numbers of slices with a mean of about `slices`."""
    spread = min(widest, max(2, slices // 4), slices - MIN_SLICES)
    around = np.resize(np.arange(-spread, spread + 1), series)
    return [int(slices + extra) for extra in rng.permutation(around)]


def _random_ids(count: int, digits: int, rng: np.random.Generator) -> list[str]:
    """Draw distinct ids `ID_<hexadecimal>` in an order that carries no information."""
    ids: dict[str, None] = {}
    while len(ids) < count:
        ids[f"ID_{int(rng.integers(16**digits)):0{digits}x}"] = None
    return list(ids)


def _middle(study: Study) -> str:
    return study.slice_ids[len(study.slice_ids) // 2]
