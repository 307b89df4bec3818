"""The six labels, their weights in the metric, and the ids of the rows of a label or submission CSV.

Source: the RSNA Intracranial Hemorrhage Detection competition, Kaggle 2019, pages "Data" and "Evaluation".
"""

import numpy as np
import pandas as pd

from src.errors import UserError, first_few

LABELS = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
WEIGHTS = (2, 1, 1, 1, 1, 1)  # `any` counts twice in the weighted log loss
SUBTYPES = LABELS[1:]

SLICE_ID = r"ID_[0-9a-f]+"
_ROW_ID = rf"({SLICE_ID})_({'|'.join(LABELS)})"


def split_row_ids(row_ids: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Split `ID_0123abcd9_epidural` into slice ids and labels, the labels as codes into LABELS (int8).

    Raises UserError naming the first rows that are not of that form.
    """
    parts = row_ids.astype("string[pyarrow]").str.extract(rf"^{_ROW_ID}$", expand=True)
    # not isna alone: `$` lets a final line break pass
    malformed = ~(parts[0] + "_" + parts[1] == row_ids).fillna(False).to_numpy(dtype=bool)
    if malformed.any():
        rows = np.flatnonzero(malformed)
        found = first_few(f"{row_ids.iloc[i]!r} in row {i + 2}" for i in rows)
        raise UserError(
            f"{malformed.sum()} malformed ids: {found}; "
            f"expected ID_<hexadecimal>_<label> with a label of {', '.join(LABELS)}"
        )
    codes = pd.Categorical(parts[1], categories=LABELS).codes
    return parts[0].astype(str), pd.Series(codes, index=row_ids.index)


def row_ids(slice_ids: pd.Series) -> pd.Series:
    """The six row ids of each slice, slice by slice, in the order of LABELS: (N,) -> (N * 6,)."""
    repeated = np.repeat(slice_ids.to_numpy(dtype=object), len(LABELS))
    return pd.Series(repeated + "_" + np.tile(np.array(LABELS, dtype=object), len(slice_ids)))
