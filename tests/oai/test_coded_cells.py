"""Coded cells of the OAI's tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from qmri_lake.oai.coded_cells import parse_coded


def test_parse_coded__all_kinds() -> None:
    cells = pd.Series(["1: Male", " 2 ", "", ".P", ".A: Not expected", ".5", "-1.5", "x", "1e400"])
    coded = parse_coded(cells)
    np.testing.assert_equal(coded.value, [1, 2, *[np.nan] * 3, 0.5, -1.5, np.nan, np.nan])
    assert coded.missing.tolist() == ["", "", "", "P", "A", "", "", "", ""]
    assert coded.bad.tolist() == [False] * 7 + [True, True]
