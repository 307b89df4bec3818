"""The six labels, their weights in the metric, and the ids of the rows of a label or submission CSV.

Source: the RSNA Intracranial Hemorrhage Detection competition, Kaggle 2019, pages "Data" and "Evaluation".
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from src.errors import UserError, first_few

LABELS = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
WEIGHTS = (2, 1, 1, 1, 1, 1)  # `any` counts twice in the weighted log loss
SUBTYPES = LABELS[1:]

SLICE_ID = r"ID_[0-9a-f]+"
_ROW_ID = rf"(?P<slice>{SLICE_ID})_(?P<label>{'|'.join(LABELS)})"


def split_row_ids(row_ids: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Split row ids such as `ID_0123abcd9_epidural` into slice ids and labels, as int8 indices into LABELS.

    Raises UserError naming the first rows that do not have that form.
    """
    # with Arrow, because Python strings would take a minute and gigabytes for the competition's 4.5 million rows
    parts = pc.extract_regex(pa.array(row_ids, pa.large_string()), rf"^{_ROW_ID}$")
    malformed = np.flatnonzero(parts.is_null().to_numpy(zero_copy_only=False))
    if len(malformed):
        found = first_few(f"{row_ids.iloc[i]!r} in row {i + 2}" for i in malformed)
        raise UserError(
            f"{len(malformed)} malformed ids: {found}; "
            f"expected ID_<hexadecimal>_<label> with a label of {', '.join(LABELS)}"
        )
    codes = pc.index_in(pc.struct_field(parts, "label"), value_set=pa.array(LABELS, pa.large_string()))
    slice_ids = pd.Series(pc.struct_field(parts, "slice"), index=row_ids.index, dtype="str")
    return slice_ids, pd.Series(codes.to_numpy(zero_copy_only=False).astype(np.int8), index=row_ids.index)


def row_ids(slice_ids: pd.Series) -> pd.Series:
    """The six row ids of each slice, slice by slice, in the order of LABELS: (N,) -> (N * 6,)."""
    repeated = np.repeat(slice_ids.to_numpy(dtype=object), len(LABELS))
    return pd.Series(repeated + "_" + np.tile(np.array(LABELS, dtype=object), len(slice_ids)))
