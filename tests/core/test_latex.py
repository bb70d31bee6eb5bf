"""Text and tables for LaTeX."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from qmri_lake.core.latex import escape_tex, tabular

ESCAPED = {
    "$5 {x}": r"\$5 \{x\}",
    "a^b": r"a\textasciicircum{}b",
    "~": r"\textasciitilde{}",
    "5 %": r"5 \%",
    "pain_months": r"pain\_months",
    "a & b": r"a \& b",
    r"C:\data": r"C:\textbackslash{}data",
    "#1": r"\#1",
    "p < 0.05": "p $<$ 0.05",
    "1–2 ± 3†": r"1--2 $\pm$ 3\dag{}",
    "chi2": r"$\chi^2$",
}


@pytest.mark.parametrize("text", ESCAPED)
def test_escape_tex__special_characters_print_as_they_are(text: str) -> None:
    assert escape_tex(text) == ESCAPED[text]


def test_escape_tex__escapes_what_pandas_escapes() -> None:
    """The only difference is how a command ends: by braces, not by a space."""
    printable = "".join(chr(code) for code in range(32, 127) if chr(code) not in "<>")
    by_pandas = pd.DataFrame({"a": [printable]}).to_latex(index=False, escape=True)
    row = by_pandas.split("\\midrule\n")[1].split(" \\\\\n")[0]
    ours = re.sub(r"\\text(\w+)\{\}", r"\\text\1 ", escape_tex(printable))
    assert ours.lstrip() == row.lstrip()


def test_tabular__escapes_cells_and_names_and_leaves_its_input() -> None:
    table = pd.DataFrame({"a^b": list(ESCAPED), "n_%": range(len(ESCAPED))}, index=[0] * 11)
    before = table.copy()
    lines = tabular(table).splitlines()
    assert lines[:4] == [
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"a\textasciicircum{}b & n\_\% \\",
        r"\midrule",
    ]
    assert lines[4:-2] == [rf"{cell} & {k} \\" for k, cell in enumerate(ESCAPED.values())]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    pd.testing.assert_frame_equal(table, before)


def test_tabular__a_rule_between_blocks() -> None:
    table = pd.DataFrame({"x": [r"\textbf{1}", "2", "3", "4"]})
    lines = tabular(table, escape=False, block=2).splitlines()
    assert lines[3:9] == [r"\midrule", r"\textbf{1} \\", r"2 \\", r"\midrule", r"3 \\", r"4 \\"]
    assert lines.count(r"\midrule") == 2
