"""Who bleeds of what in a hard competition."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.labels import LABELS, SUBTYPES
from src.synthetic.make_competition import make_competition
from src.synthetic.plan import LENGTH_SPREAD, MIXTURE, QUIET, make_plan, parse_mixture

# Of the competition's slices that bleed (stage 1, 14.40 % of all), how many show each subtype
COMPETITION = {
    "epidural": 0.41 / 14.40,
    "intraparenchymal": 4.83 / 14.40,
    "intraventricular": 3.52 / 14.40,
    "subarachnoid": 4.76 / 14.40,
    "subdural": 6.30 / 14.40,
}


def first_visits(**settings) -> list[tuple[str, ...]]:
    plan = make_plan(**{"slices": 32, "size": 64, "seed": 0, "difficulty": "hard"} | settings)
    return [study.bleeds for study in plan.studies if study.number == 0]


@pytest.mark.parametrize("bleeding", [0.2, 0.5, 0.85])
def test_as_many_patients_bleed_as_are_asked_for(bleeding):
    fractions = [
        np.mean([bool(bleeds) for bleeds in first_visits(patients=100, bleeding=bleeding, seed=s)]) for s in range(4)
    ]
    assert fractions == pytest.approx([bleeding] * 4, abs=0.011)


def test_they_bleed_of_what_the_mixture_says_to_the_nearest_patient():
    mixture = parse_mixture("subdural=3,epidural+subdural=1,subarachnoid=4")
    counts = Counter(bleeds for bleeds in first_visits(patients=100, bleeding=0.8, mixture=mixture) if bleeds)
    expected = {("subdural",): 30, ("epidural", "subdural"): 10, ("subarachnoid",): 40}
    assert set(counts) == set(expected)
    assert all(abs(counts[part] - expected[part]) <= 2 for part in expected), counts


def test_the_smallest_competition_has_its_quiet_patients():
    for seed in range(10):
        bleeds = first_visits(patients=8, bleeding=0.99, seed=seed)
        assert sum(not each for each in bleeds[:6]) >= QUIET
        assert any(bleeds)


def test_series_have_24_to_40_slices():
    lengths = [len(s.slice_ids) for s in make_plan(patients=100, slices=32, size=64, seed=0, difficulty="hard").studies]
    assert (min(lengths), max(lengths)) == (24, 40)
    assert np.mean(lengths) == pytest.approx(32, abs=0.5)
    assert LENGTH_SPREAD["hard"] == 8


def test_slices_that_bleed_show_subtypes_as_the_competitions_do_and_are_more(tmp_path):
    # eighteen slices span a head: how many show a subtype depends on how far bleeds reach, not on the number
    make_competition(tmp_path / "input", patients=90, slices=18, size=32, difficulty="hard", seed=5, jobs=2)
    rows = pd.concat(pd.read_csv(tmp_path / f"input/stage_2_{name}.csv") for name in ("train", "test_truth"))
    rows[["slice", "label"]] = rows["ID"].str.rsplit("_", n=1, expand=True)
    labels = rows.drop_duplicates("ID").pivot(index="slice", columns="label", values="Label")[list(LABELS)]
    assert 2 * 0.144 < labels["any"].mean() < 4 * 0.144
    fractions = labels[labels["any"] == 1].mean()
    for name in SUBTYPES:
        assert fractions[name] == pytest.approx(COMPETITION[name], abs=0.1 if name != "epidural" else 0.03), name


@pytest.mark.parametrize(
    "text", ["", "subdural", "subdural=0", "subdural=-1", "subdural=nan", "bleed=1", "subdural=1,", "any=1"]
)
def test_a_mixture_that_makes_no_sense_is_a_users_mistake(text):
    with pytest.raises(UserError, match=r"mixture .*: expected SUBTYPE"):
        parse_mixture(text)


def test_the_default_mixture_can_be_written_as_an_option():
    text = ",".join(f"{'+'.join(subtypes)}={weight}" for subtypes, weight in MIXTURE)
    assert parse_mixture(text) == tuple((tuple(sorted(subtypes)), weight) for subtypes, weight in MIXTURE)


@pytest.mark.parametrize("bleeding", [0.0, 1.0, -0.1, 7.0])
def test_a_fraction_of_none_or_all_is_a_users_mistake(bleeding, tmp_path):
    with pytest.raises(UserError, match=r"bleeding .*: expected a fraction"):
        make_competition(tmp_path / "input", patients=8, slices=4, size=32, difficulty="hard", bleeding=bleeding)


def test_easy_competitions_take_no_mixture(tmp_path):
    with pytest.raises(UserError, match="difficulty hard only"):
        make_competition(tmp_path / "input", patients=8, slices=4, size=32, bleeding=0.5)
