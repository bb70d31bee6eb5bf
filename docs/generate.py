"""Write the pages that come from the code: variables, reasons, the command line, figures.

Usage: ``python -m docs.generate`` writes them; ``--check`` says which committed page is not what
the code gives, and exits with 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from qmri_lake.errors import Reason
from qmri_lake.steps import find_step
from qmri_lake.variables import REGISTRY, Variable

DOCS = Path(__file__).parent
NOTE = "<!-- Written by `python -m docs.generate`; change the code instead. -->\n\n"

GROUPS = {
    "dess": "DESS: the anatomical series, 0.7 x 0.36 x 0.36 mm",
    "msme": "MSME: the multi-echo spin-echo series that T2 comes from",
    "sphere": "Spherical maps of the bones: 224 x 224 directions from a centre in each",
    "region": "Averages of cartilage in regions, from surfaces and source voxels",
    "prediction": "What classifiers say: probabilities by strategy (6) and predictor (5)",
    "clinical": "Clinical columns, joined on the exams",
    "visit": "Every clinical row of every visit, with or without an MRI (its own axis, `visit`)",
}

REASONS: Mapping[Reason, str] = {
    Reason.ABSENT_SIDE: "No header, listing or option says which knee it is.",
    Reason.ABSENT_PATIENT: "Nothing says whose knee it is.",
    Reason.ABSENT_TIMEPOINT: "Nothing says at which visit it was.",
    Reason.ABSENT_EXAM: "An exam lacks what a computation needs, such as a mask.",
    Reason.DISK_FULL: "No space left, a quota or a limit on file size. What is committed is safe.",
    Reason.DUPLICATE_POSITION: "Two files claim the same slice and echo.",
    Reason.EMPTY_MASK: "A mask has no voxel, or no surface, to measure.",
    Reason.GRID_MISMATCH: "A mask does not lie on its image's grid, or doesn't say where it lies.",
    Reason.IMPLAUSIBLE_MOTION: "A knee that seems to have moved further than it can in its coil.",
    Reason.INCONSISTENT_GEOMETRY: "The files are not parallel slices and echoes of one grid.",
    Reason.KL_PROSTHESIS: "A KL grade of `.P`: the knee is a prosthesis, and counts as replaced.",
    Reason.LARGER_THAN_LAKE: "The series is larger than the arrays of this lake.",
    Reason.MISSING_SLICE: "A gap between slices is wider than the others.",
    Reason.MIXED_ECHO_COUNTS: "Echoes have different numbers of slices.",
    Reason.NOT_A_LAKE: "The path or URL holds no lake.",
    Reason.MODEL_MISMATCH: "A model's classes, weights or voxels are not those that are asked for.",
    Reason.PATIENT_CONFLICT: "Header, folder, listing or option name different patients.",
    Reason.SIDE_CONFLICT: "They name different knees.",
    Reason.TABLE_WITHOUT_KEY: "A table lacks the column that says whose rows these are.",
    Reason.TIMEPOINT_CONFLICT: "They name different visits.",
    Reason.TOO_SMALL: "A volume is smaller than what a network can take.",
    Reason.TRUNCATED_FILE: "A file or tar ends too early.",
    Reason.UNDECODABLE_PIXELS: "The pixels are whole but no decoder can read them.",
    Reason.UNKNOWN_LABEL: "A mask has a label that its table does not name.",
    Reason.UNKNOWN_REF: "No tag, branch or snapshot of that name; those that there are are listed.",
    Reason.UNKNOWN_RELEASE: "The release folder is none of OAI's.",
    Reason.OTHER_SERIES: "The lake has another series of this exam; nothing was replaced.",
    Reason.UNREADABLE_FILE: "A file, link or archive can't be opened or is not what it should be.",
    Reason.UNREADABLE_VALUE: "A cell, header element, mask or option has a value it can't have.",
}


def variables() -> str:
    """Return the page of all variables, by group."""
    find_step("t2")  # steps declare what they write when they are imported
    text = [NOTE, "# Variables\n\n"]
    text.append(
        "Every array of a lake, as declared in `qmri_lake.variables` and by the steps. Dims follow "
        "the group's first axis, `exam`. *No value* is what the fill value says: it is never 0. "
        "Each declaration is stored with its array, so a lake is read and checked without this "
        "package's code. A variant `name` of a variable is stored beside it as "
        "`variable__name`.\n\n"
    )
    for group, prose in GROUPS.items():
        rows = [_variable_row(v) for v in REGISTRY.group(group)]
        head = ("variable", "dims", "type", "unit", "valid", "what it is", "no value", "step")
        text += [f"## `{group}`\n\n{prose}.\n\n", table(head, rows), "\n"]
    text += [
        "## `status`\n\nOne group a step, variants included: `state` (uint8: 0 pending, 1 done, "
        "2 failed, 3 skipped, 4 flagged), `run` (int32, -1 never run), `message`. What each run "
        "was (parameters, code, input snapshot, counts) is stored once, with the group.\n"
    ]
    return "".join(text)


def _variable_row(v: Variable) -> tuple[str, ...]:
    valid = "" if v.valid_range is None else " to ".join(f"{x:g}" for x in v.valid_range)
    if v.flags is not None:
        valid = ", ".join(f"{value} {name}" for name, value in v.flags.items())
    fill = f"{v.fill!r}" if v.fill != "" else "empty"
    meaning = f"{fill}: {v.fill_meaning}" if v.fill_meaning else fill
    return (
        f"`{v.name}`",
        ", ".join(v.dims),
        v.dtype,
        v.unit,
        valid,
        v.description,
        meaning,
        v.step,
    )


def reasons() -> str:
    """Return the closed list of reasons."""
    rows = [(f"`{reason}`", REASONS[reason]) for reason in sorted(Reason)]
    return "".join(
        (
            NOTE, "# Reasons\n\n",
            "Why a file, series, table or cell could not be used: the closed list. "
            "`qmri-lake ingest` prints each with the file, what was found, what was expected and "
            "what to do; `IngestResult.table()` is the same as a DataFrame; an error that is "
            "raised carries it as `error.reason`.\n\n",
            table(("reason", "what it means"), rows),
        )
    )  # fmt: skip


def command_line() -> str:
    """Return the page of all commands and their options."""
    from qmri_lake.cli.app import command

    text = [NOTE, "# Command line\n\n"]
    text.append(
        "Every long command shows a progress bar and can be stopped and started again. Every error "
        "is one line; `--debug` shows the traceback. Exit code 0: all well; 1: finished, but some "
        "exams or files failed and are listed; 2: not done. `QMRI_LAKE` stands in for a lake that "
        "is not given.\n\n"
    )
    for name, sub in _commands(command(), ""):
        usage = [p.metavar for p in sub.params if p.param_type_name == "argument"]
        text.append(f"## `qmri-lake {' '.join((name, *usage))}`\n\n{_dedent(sub.help)}\n\n")
        rows = [
            (f"`{'`, `'.join(p.opts)}`", p.help or "", _default(p))
            for p in sub.params
            if p.param_type_name == "option" and p.name != "help"
        ]
        if rows:
            text += [table(("option", "what it does", "default"), rows), "\n"]
    return "".join(text)


def _commands(group: Any, before: str) -> Iterable[tuple[str, Any]]:
    """Yield commands with their names, those of a group after it."""
    for name, sub in group.commands.items():
        if hasattr(sub, "commands"):
            yield from _commands(sub, f"{before}{name} ")
        else:
            yield f"{before}{name}", sub


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    nothing = value is None or value is False or value in ("", ())
    return "" if nothing or callable(value) else f"`{value}`"


def _dedent(text: str) -> str:
    import inspect

    return inspect.cleandoc(text)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/variables.md": variables,
    "reference/reasons.md": reasons,
    "reference/command_line.md": command_line,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or check them."""
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    for name in stale:
        print(f"docs/{name}: not what the code gives. Run: python -m docs.generate")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
