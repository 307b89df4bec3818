from typing import Any

import pytest

from src.files.provenance import Provenance

OF_CLASSIFIER = {
    "conf": "net", "fold": 1, "epoch": 3, "checkpoint": "c", "split": "valid", "slices": "s", "views": "Identity",
}  # fmt: skip
OF_SEQUENCE = OF_CLASSIFIER | {"classifier": "b", "classifier_epoch": 3, "classifier_checkpoint": "d"}
OF_EMBEDDINGS = OF_CLASSIFIER | {"split": "train", "trained_on": "t", "components": None}


@pytest.mark.parametrize("record", [OF_CLASSIFIER, OF_SEQUENCE, OF_EMBEDDINGS, OF_EMBEDDINGS | {"components": 5}])
def test_files_keep_the_names_of_earlier_versions(record: dict[str, Any]) -> None:
    provenance = Provenance.from_record(record)
    assert provenance.record() == record
    assert provenance.tta == record["views"]
    assert provenance.data_fingerprint == record.get("trained_on")
    assert provenance.components == record.get("components")
    assert provenance.classifier_checkpoint == record.get("classifier_checkpoint")
    assert Provenance(**{field: getattr(provenance, field) for field in Provenance.__dataclass_fields__}) == provenance


def test_numbers_may_be_text() -> None:
    # as in a parquet file's metadata
    assert Provenance.from_record(OF_CLASSIFIER | {"fold": "1", "epoch": "3"}) == Provenance.from_record(OF_CLASSIFIER)
    found = Provenance.from_record(OF_EMBEDDINGS | {"components": "5"})
    assert found.components == 5


def test_other_records_are_none() -> None:
    with pytest.raises(KeyError):
        Provenance.from_record({key: value for key, value in OF_CLASSIFIER.items() if key != "conf"})
    with pytest.raises(ValueError, match="invalid literal"):
        Provenance.from_record(OF_CLASSIFIER | {"fold": "none"})
