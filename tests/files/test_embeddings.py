import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.files.embeddings import Embeddings, EmbeddingWriter, is_finished
from src.files.provenance import Provenance

PROVENANCE = Provenance(
    conf="efficientnet-b2",
    fold=1,
    epoch=3,
    checkpoint="sum",
    data_fingerprint="slices",
    split="train",
    slices="print",
    tta="Identity",
)
N, D = 10, 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(N, 6)).astype(np.float32)
EMBEDDINGS = RNG.normal(size=(N, D)).astype(np.float32)


def _write(path: Path, first: int, last: int) -> EmbeddingWriter:
    writer = EmbeddingWriter(path, PROVENANCE, N, D)
    writer.open_at(first)
    writer.add(LOGITS[first:last], EMBEDDINGS[first:last])
    writer.save()
    writer.close()
    return writer


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    _write(path, 0, N)
    found = Embeddings(path)
    assert (len(found), found.dimensions, found.provenance) == (N, D, PROVENANCE)
    logits, embeddings = found.read(2, 6)
    np.testing.assert_array_equal(logits, LOGITS[2:6])
    np.testing.assert_array_equal(embeddings, EMBEDDINGS[2:6].astype(np.float16).astype(np.float32))
    assert embeddings.dtype == logits.dtype == np.float32
    # anybody can read it
    np.testing.assert_array_equal(np.load(path)["embedding"], EMBEDDINGS.astype(np.float16))
    assert path.stat().st_size < N * (6 * 4 + D * 2) + 300


def test_an_interrupted_file_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    path, whole = tmp_path / "e.npy", tmp_path / "whole.npy"
    _write(whole, 0, N)
    writer = EmbeddingWriter(path, PROVENANCE, N, D)
    writer.open_at(0)
    writer.add(LOGITS[:4], EMBEDDINGS[:4])
    writer.save()
    writer.add(LOGITS[4:7] + 1, EMBEDDINGS[4:7])  # lost, though some of it may be on the disk
    writer.close()
    with pytest.raises(UserError, match=r"has 4 of its 10 slices") as unfinished:
        Embeddings(path)
    assert unfinished.value.step == "sequence"
    assert EmbeddingWriter(path, PROVENANCE, N, D).done == 4
    _write(path, 4, N)
    assert path.read_bytes() == whole.read_bytes()
    _write(path, 2, N)  # another file of the same group had come less far
    assert path.read_bytes() == whole.read_bytes()


def test_another_networks_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    _write(path, 0, N)
    assert is_finished(path, PROVENANCE)
    other = replace(PROVENANCE, checkpoint="other")
    assert not is_finished(path, other)
    writer = EmbeddingWriter(path, other, N, D)
    assert writer.done == 0
    writer.open_at(0)
    writer.close()
    assert not is_finished(path, PROVENANCE)  # what it was is gone, and it says so


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    with pytest.raises(UserError, match=r"e.npy is missing") as missing:
        Embeddings(path)
    assert missing.value.step == "sequence"
    _write(path, 0, N)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"e.npy is damaged .*; delete it") as damaged:
        Embeddings(path)
    assert damaged.value.step == "sequence"
    path.with_suffix(".json").write_text(json.dumps({"done": 1}))
    with pytest.raises(UserError, match="is missing"):
        Embeddings(path)
    assert EmbeddingWriter(path, PROVENANCE, N, D).done == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["logits", "embedding"])
def test_values_that_are_not_finite_are_named(tmp_path: Path, which: str, value: float) -> None:
    path = tmp_path / "e.npy"
    writer = EmbeddingWriter(path, PROVENANCE, N, D)
    writer.open_at(0)
    wrong = {"logits": LOGITS.copy(), "embedding": EMBEDDINGS.copy()}
    wrong[which][1, 2] = value
    with pytest.raises(UserError, match=r"e.npy: some logits or embeddings are not finite"):
        writer.add(wrong["logits"], wrong["embedding"])


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    writer = EmbeddingWriter(tmp_path / "e.npy", PROVENANCE, N, D)
    writer.open_at(0)
    with pytest.raises(UserError, match="exceeds what float16 holds"):
        writer.add(LOGITS[:1], EMBEDDINGS[:1] * 1e6)
    writer.close()


def _flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_changed_byte_anywhere_is_noticed_and_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    _write(path, 0, N)
    whole, note = path.read_bytes(), path.with_suffix(".json").read_bytes()
    for at in range(0, len(whole), 5):
        _flipped(path, at)
        with pytest.raises(UserError, match=r"e.npy is damaged"):
            Embeddings(path)
        assert not is_finished(path, PROVENANCE)
        path.write_bytes(whole)
    for at in range(0, len(note), 3):
        _flipped(path.with_suffix(".json"), at)
        with pytest.raises(UserError, match=r"e.json, the note beside .*e.npy, is missing or damaged"):
            Embeddings(path)
        assert EmbeddingWriter(path, PROVENANCE, N, D).done == 0
        path.with_suffix(".json").write_bytes(note)
    assert is_finished(path, PROVENANCE)


def test_an_interrupted_file_that_lost_its_end_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    _write(path, 0, 6)
    assert EmbeddingWriter(path, PROVENANCE, N, D).done == 6
    path.write_bytes(path.read_bytes()[:-40])
    assert EmbeddingWriter(path, PROVENANCE, N, D).done == 0
    _write(path, 0, 6)
    _flipped(path, 200)
    assert EmbeddingWriter(path, PROVENANCE, N, D).done == 0


def test_a_file_that_is_rewound_and_interrupted_keeps_what_is_before(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    _write(path, 0, 8)
    writer = EmbeddingWriter(path, PROVENANCE, N, D)
    writer.open_at(3)  # others of its group are less far
    writer.add(LOGITS[3:5] + 1, EMBEDDINGS[3:5])
    writer.close()  # without a save
    assert EmbeddingWriter(path, PROVENANCE, N, D).done == 3
    assert EmbeddingWriter(path, PROVENANCE, N, D + 1).done == 0  # embeddings of another size
