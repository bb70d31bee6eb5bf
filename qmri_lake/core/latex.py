"""LaTeX tables that need only the package booktabs."""

from __future__ import annotations

import pandas as pd

__all__ = ["escape_tex", "tabular"]

_ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "%": r"\%",
        "&": r"\&",
        "_": r"\_",
        "#": r"\#",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        # Pandas escapes the characters above, but none of the following.
        "<": "$<$",
        ">": "$>$",
        "\N{EN DASH}": "--",
        "\N{DAGGER}": r"\dag{}",
        "\N{PLUS-MINUS SIGN}": r"$\pm$",
    }
)


def escape_tex(text: str) -> str:
    r"""Escape text for LaTeX, so that it is printed unchanged; "chi2" becomes a symbol.

    >>> print(escape_tex("a^b costs $5, 90 % of {x}"))
    a\textasciicircum{}b costs \$5, 90 \% of \{x\}
    """
    return text.translate(_ESCAPED).replace("chi2", r"$\chi^2$")


def tabular(table: pd.DataFrame, *, escape: bool = True, block: int | None = None) -> str:
    """Return a table as a LaTeX tabular, without a surrounding table environment.

    Parameters
    ----------
    table : DataFrame
        Its index is not shown. Not modified.
    escape : bool
        Escape cells and column names. If False, they must be valid LaTeX already.
    block : int, optional
        Number of rows between two horizontal rules. Default: no rules between rows.
    """
    words = table.astype(str).reset_index(drop=True)
    if escape:
        words = words.map(escape_tex).rename(columns=lambda name: escape_tex(str(name)))
    text = words.to_latex(index=False, escape=False, column_format="l" * table.shape[1])
    if not block:
        return text.rstrip("\n")
    head, body = text.split("\\midrule\n")
    rows, foot = body.split("\\bottomrule\n")
    lines = rows.splitlines(keepends=True)
    blocks = ["".join(lines[k : k + block]) for k in range(0, len(lines), block)]
    return "\\midrule\n".join([head, *blocks]) + "\\bottomrule\n" + foot.rstrip("\n")
