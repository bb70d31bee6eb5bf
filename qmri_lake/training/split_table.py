"""Tabulate the exams and patients in each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qmri_lake.published import SPLITS

if TYPE_CHECKING:
    from qmri_lake.lake.lake import Lake

__all__ = ["split_table"]


def split_table(lake: Lake, split: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Summarise the exams and patients in each split, as for bone networks in the paper's Table 1.

    Parameters
    ----------
    lake : Lake
        The clinical columns age, bmi and sex are used if they exist.
    split : mapping of name to exam keys
        Exam keys of each split, as returned by `qmri_lake.lake.split_by_patient.split_by_patient`.

    Returns
    -------
    DataFrame
        One row per split: number of volumes, number of patients, mean ± SD of age [a] and BMI
        [kg/m2], number of men / women. Means are over volumes, as in the paper. Unknown values are
        counted separately. The last rows are those of the paper.
    """
    known = {name for name in ("age", "bmi", "sex") if name in lake.column_names()}
    columns = pd.DataFrame(lake.columns(["exam", "patient", *sorted(known)])).set_index("exam")
    rows = []
    for name, keys in split.items():
        exams = columns.loc[list(keys)]
        sex = exams["sex"] if "sex" in known else pd.Series(pd.NA, exams.index, dtype="string")
        unknown = int(sex.isna().sum())
        rows.append(
            {
                "split": name,
                "volumes": f"{len(exams):,}",
                "patients": f"{exams['patient'].nunique():,}",
                "age [a]": _mean_and_sd(exams["age"] if "age" in known else None, len(exams)),
                "BMI [kg/m2]": _mean_and_sd(exams["bmi"] if "bmi" in known else None, len(exams)),
                "men / women": f"{int((sex == 'male').sum())} / {int((sex == 'female').sum())}"
                + (f" ({unknown} unknown)" if unknown else ""),
            }
        )
    for name, printed in SPLITS.items():
        rows.append(
            {
                "split": f"{name}, paper",
                "volumes": f"{printed.volumes}",
                "patients": "–",
                "age [a]": f"{printed.age[0]} ± {printed.age[1]}",
                "BMI [kg/m2]": f"{printed.bmi[0]} ± {printed.bmi[1]}",
                "men / women": f"{printed.men} / {printed.women}",
            }
        )
    return pd.DataFrame(rows)


def _mean_and_sd(column: pd.Series | None, count: int) -> str:
    values = np.asarray([] if column is None else column.dropna(), float)
    if not values.size:
        return "–"
    text = f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")
    return text + (f" ({count - len(values)} unknown)" if len(values) < count else "")
