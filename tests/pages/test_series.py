"""The page of a series as text: what is in it, what cannot get out of it, and that its slices are the ones given."""

import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import src.pages.series
from src.pages import SeriesView, series_page
from src.pages.codec import pack_maps, pack_pixels, reduce_pixels
from src.pages.html import asset

HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=alert(1)> \"'&amp; {{ 7 * 7 }} <!--"


@pytest.fixture
def view() -> SeriesView:
    rng = np.random.default_rng(0)
    probabilities = rng.random((4, 6))
    return SeriesView(
        title="Head CT",
        details=[("Slice thickness", "5.0 mm")],
        warnings=["One slice may be missing."],
        pixels=[rng.integers(-1024, 3072, (9, 7 + i), dtype=np.int16) for i in range(4)],
        spacings=[(0.5, 0.5)] * 4,
        z=np.array([-5.0, 0, 5, np.nan]),
        ids=[f"1.2.{i}" for i in range(4)],
        probabilities=probabilities,
        study=probabilities.max(axis=0),
        thresholds={"any": 0.4, "epidural": None},
        maps=rng.random((4, 6, 3, 3)).astype(np.float32),
        maps_note="Coarse.",
        sides="RLAP",
    )


class _Page(HTMLParser):
    """Elements of a document, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and self.scripts[-1][1] == "":
            self.scripts[-1] = (self.scripts[-1][0], data)
        self.text += data

    @property
    def series(self) -> dict:
        return json.loads(next(text for attrs, text in self.scripts if attrs.get("data-part") == "series"))

    def packed(self, kind: str) -> list[bytes]:
        return [base64.b64decode(text) for attrs, text in self.scripts if f"data-{kind}" in attrs]


def _unpack(packed: bytes, rows: int, columns: int) -> np.ndarray:
    """What viewer.js does, another way: in Python integers, pixel by pixel."""
    low, high = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(2, rows, columns).astype(int)
    hu = np.empty((rows, columns), dtype=int)
    for row, zigzags in enumerate(low + 256 * high):
        left = 0
        for column, zigzag in enumerate(zigzags):
            left += zigzag // 2 if zigzag % 2 == 0 else -(zigzag + 1) // 2
            hu[row, column] = left = (left + 32768) % 65536 - 32768
    return hu


@given(arrays(np.int16, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_pixels_come_back_as_they_were(hu: np.ndarray) -> None:
    np.testing.assert_array_equal(_unpack(base64.b64decode(pack_pixels(hu)), *hu.shape), hu)


def test_packed_maps_are_bytes() -> None:
    maps = np.array([[[0, 1], [0.5, 0.25]]], dtype=np.float32)
    assert list(zlib.decompress(base64.b64decode(pack_maps(maps)))) == [0, 255, 128, 64]


@settings(max_examples=50)
@given(arrays(np.int16, array_shapes(min_dims=2, max_dims=2, max_side=9)), st.sampled_from([1, 2, 4]))
def test_reduced_pixels_are_means_of_blocks(hu: np.ndarray, factor: int) -> None:
    reduced = reduce_pixels(hu, factor)
    assert reduced.shape == tuple(-(-size // factor) for size in hu.shape)
    rows, columns = [np.minimum(np.arange(factor), size - 1) for size in hu.shape]
    assert abs(reduced[0, 0] - hu[np.ix_(rows, columns)].astype(float).mean()) <= 0.51


def test_the_page_holds_the_slices_and_what_is_said_of_them(view: SeriesView) -> None:
    page = _Page(series_page(view))
    for packed, hu in zip(page.packed("slice"), view.pixels, strict=True):
        np.testing.assert_array_equal(_unpack(packed, *hu.shape), hu)
    slices = page.series["slices"]
    assert [(each["rows"], each["columns"]) for each in slices] == [(9, 7), (9, 8), (9, 9), (9, 10)]
    assert [each["z"] for each in slices] == [-5, 0, 5, None]
    assert [each["id"] for each in slices] == list(view.ids)
    np.testing.assert_array_equal([each["probabilities"] for each in slices], view.probabilities)
    assert page.series["study"] == view.study.tolist()
    assert page.series["thresholds"] == [0.4, None, None, None, None, None]
    assert len(page.packed("map")) == 4
    for text in (
        "Head CT",
        "Slice thickness",
        "5.0 mm",
        "One slice may be missing.",
        "Not for clinical use",
        "Coarse.",
    ):
        assert text in page.text
    assert "at or above the threshold of 0.40." in page.text


def test_hostile_text_stays_text(view: SeriesView) -> None:
    clean = _Page(series_page(view))
    hostile = replace(
        view,
        title=HOSTILE,
        details=[(HOSTILE, HOSTILE)],
        warnings=[HOSTILE],
        ids=[HOSTILE + each for each in view.ids],
        maps_note=HOSTILE,
    )
    page = _Page(series_page(hostile))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in clean.elements]
    assert page.text.count(HOSTILE) == 6  # title and heading, detail twice, warning, note of the maps
    assert page.series["slices"][0]["id"] == HOSTILE + "1.2.0"


def test_the_policy_allows_the_pages_own_script_and_style_alone(view: SeriesView) -> None:
    text = series_page(view)
    page = _Page(text)
    policy = next(attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv"))
    assert policy is not None
    allowed = dict(each.split(" ", 1) for each in policy.split("; "))
    assert allowed["default-src"] == allowed["base-uri"] == allowed["form-action"] == "'none'"
    assert "unsafe" not in policy
    for kind, pattern in (("script", r'<script type="module">(.*?)</script>'), ("style", r"<style>(.*?)</style>")):
        (inline,) = re.findall(pattern, text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert allowed[f"{kind}-src"] == f"'sha256-{digest}'"
    # a style attribute or a handler would be blocked, as is whatever comes from elsewhere
    for tag, attrs in page.elements:
        assert not {name for name in attrs if name == "style" or name.startswith("on")}, tag
        assert not {"src", "href", "action", "srcset"} & {*attrs}, tag


def test_nothing_in_the_page_has_an_address(view: SeriesView) -> None:
    text = series_page(view)
    assert re.findall(r"(?:https?|wss?|ftp)://|url\(|@import", text) == []


def test_what_is_put_into_a_page_cannot_end_its_element(repository: Path) -> None:
    names = [path.name for pattern in ("*.js", "*.css") for path in (repository / "src/pages").glob(pattern)]
    assert {"viewer.js", "style.css"} <= {*names}
    for name in names:
        assert not re.search(r"</(script|style)|<!--|\r", asset(name), flags=re.IGNORECASE), name


def test_one_slice_without_anything_known(view: SeriesView) -> None:
    lone = replace(
        view,
        details=[],
        warnings=[],
        pixels=[np.zeros((1, 1), dtype=np.int16)],
        spacings=[(np.nan, np.nan)],
        z=np.array([np.nan]),
        ids=[""],
        probabilities=view.probabilities[:1],
        study=view.probabilities[0],
        thresholds={},
        maps=None,
        maps_note="The networks have none.",
        sides="",
    )
    page = _Page(series_page(lone))
    assert page.series["slices"][0]["spacing"] is page.series["slices"][0]["z"] is page.series["maps"] is None
    assert page.series["thresholds"] == [None] * 6
    assert page.packed("map") == []
    assert "no threshold is given" in page.text
    assert "which side is the patient's right is not known" in page.text
    assert "The networks have none." in page.text


def test_a_page_that_would_be_too_large_is_halved_and_says_so(
    view: SeriesView, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 200, (32, 30), dtype=np.int16)
    whole = len(pack_pixels(noise))
    n = 600
    long = replace(
        view,
        pixels=[noise] * n,
        spacings=[(0.5, 0.25)] * n,
        z=np.arange(n, dtype=float),
        ids=[str(i) for i in range(n)],
        probabilities=np.full((n, 6), 0.25),
        maps=None,
    )
    monkeypatch.setattr(src.pages.series, "MOST_BYTES", n * whole)
    assert "reduced resolution" not in series_page(long)
    monkeypatch.setattr(src.pages.series, "MOST_BYTES", n * whole - 1)
    page = _Page(series_page(long))
    assert "Shown at reduced resolution, 16 × 15 in place of 32 × 30 pixels" in page.text  # noqa: RUF001 - the sign
    assert page.series["slices"][599] | {"probabilities": None} == {
        "rows": 16,
        "columns": 15,
        "spacing": [1.0, 0.5],
        "z": 599.0,
        "id": "599",
        "probabilities": None,
    }
    assert sum(map(len, page.packed("slice"))) < n * whole / 3
    np.testing.assert_array_equal(_unpack(page.packed("slice")[599], 16, 15), reduce_pixels(noise, 2))


@pytest.mark.parametrize(
    ("sides", "ends"), [("RLAP", ("feet", "head")), ("LRAP", ("head", "feet")), ("APHF", ("left", "right"))]
)
def test_the_strip_names_its_ends(view: SeriesView, sides: str, ends: tuple[str, str]) -> None:
    # rows to the left and columns to the back: their normal points to the head (PS3.3 C.7.6.2.1.1)
    text = series_page(replace(view, sides=sides))
    assert (f'data-part="first">{ends[0]}<' in text, f'data-part="last">{ends[1]}<' in text) == (True, True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ids": ["1"]}, "4 slices, 4 spacings, 4 positions and 1 ids"),
        ({"pixels": [], "spacings": [], "z": np.zeros(0), "ids": []}, "a slice at least"),
        ({"probabilities": np.full((4, 6), 1.5)}, "probabilities of shape"),
        ({"study": np.full(6, np.nan)}, "study of shape"),
        ({"maps": np.zeros((3, 6, 2, 2), np.float32)}, r"maps of shape \(3, 6, 2, 2\); expected \(4, 6, 2, 2\)"),
        ({"pixels": [np.zeros((2, 2))] * 4}, "float64 of shape"),
        ({"sides": "RL"}, "four letters"),
    ],
)
def test_what_does_not_belong_together_is_an_error(view: SeriesView, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(view, **wrong)


def test_templates_are_found_from_any_folder(view: SeriesView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert series_page(view).startswith("<!doctype html>")
