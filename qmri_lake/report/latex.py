"""Tables for LaTeX, that need the package booktabs only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

__all__ = ["escape_tex", "tabular"]


def escape_tex(text: str) -> str:
    """Return text as LaTeX prints it."""
    for plain, escaped in (
        ("\\", r"\textbackslash "), ("%", r"\%"), ("&", r"\&"), ("_", r"\_"), ("#", r"\#"),
        ("<", "$<$"), (">", "$>$"), ("\N{EN DASH}", "--"), ("\N{DAGGER}", r"\dag{}"),
        ("\N{PLUS-MINUS SIGN}", r"$\pm$"),
    ):  # fmt: skip
        text = text.replace(plain, escaped)
    return text


def tabular(table: pd.DataFrame) -> str:
    """Return a table of words as a tabular, without an environment around it."""

    def line(cells: Sequence[Any]) -> str:
        text = " & ".join(escape_tex(str(cell)) for cell in cells)
        return text.replace("chi2", r"$\chi^2$") + r" \\"

    rows = [line(row) for row in table.itertuples(index=False, name=None)]
    head = [rf"\begin{{tabular}}{{{'l' * table.shape[1]}}}", r"\toprule", line(list(table.columns))]
    return "\n".join([*head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"])
