"""Segmentation in a report: how well masks agree with their references, and where they don't.

The layout of the paper's Table S1, of its Figure S2, and of the part of its Table 1 on the bone
networks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from qmri_lake.report.published import CITATION, SEGMENTATION, SEGMENTATION_N, SPLITS
from qmri_lake.segmentation.origin import Unseen, find_unseen, other_makers
from qmri_lake.segmentation.scores import (
    COLUMNS,
    TISSUES,
    Kind,
    score_exams,
    scored,
    summarise_scores,
)
from qmri_lake.steps import read_exam
from qmri_lake.summary import counted

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["agreement_figure", "agreement_table", "segmentation_parts", "split_table"]

COLOURS = {"true positive": "#00C853", "false positive": "#00FFFF", "false negative": "#FF00FF"}
"""Those of Figure S2: green, cyan, magenta."""
_ALPHA = {"true positive": 0.45, "false positive": 0.9, "false negative": 0.9}
_SHOWN = 3
_MARGIN_MM = 6.0
_WIDEST = 11.3
"""Inches of all panels."""
_TITLES = {"bone": "Bones", "cartilage": "Cartilage and menisci"}


def agreement_table(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return Table S1 of the exams that were scored, beside the printed one.

    Parameters
    ----------
    scores : mapping of kind to DataFrame
        Of `qmri_lake.segmentation.scores.score_exams`, by ``"bone"`` and ``"cartilage"``.

    Returns
    -------
    DataFrame
        A row a structure: mean [95 % interval] over patients of DSC [%] and MPTS [mm], as
        `summarise_scores`; the numbers of patients and of their exams; and the paper's, which
        counts volumes.
    """
    rows = []
    for kind, table in scores.items():
        for tissue, row in summarise_scores(table).iterrows():
            printed = SEGMENTATION.get(str(tissue))
            rows.append(
                {
                    "structure": f"{tissue} cartilage" if kind == "cartilage" and printed
                    else str(tissue),
                    "DSC [%]": _interval(*(100 * row[["dsc", "dsc_low", "dsc_high"]]), digits=1),
                    "MPTS [mm]": _interval(*row[["mpts_mm", "mpts_low", "mpts_high"]], digits=3),
                    "patients": _count(row, "patients"),
                    "exams": _count(row, "n"),
                    "paper: DSC [%]": _interval(*printed["dsc"], digits=1) if printed else "–",
                    "paper: MPTS [mm]": _interval(*printed["mpts_mm"], digits=3)
                    if printed else "–",
                    "paper: volumes": f"{SEGMENTATION_N[kind]}" if printed else "–",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _count(row: pd.Series[Any], what: str) -> str:
    overlap, surfaces = int(row[f"dsc_{what}"]), int(row[f"mpts_{what}"])
    return f"{overlap:,}" + (f" (MPTS: {surfaces:,})" if surfaces != overlap else "")


def _interval(mean: float, low: float, high: float, *, digits: int) -> str:
    if not np.isfinite(mean):
        return "–"
    if not np.isfinite(low):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def split_table(lake: Lake, split: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return who is in each split, as the paper's Table 1 does for the bone networks.

    Parameters
    ----------
    lake : Lake
        With the clinical columns age, bmi and sex, as far as it has them.
    split : mapping of name to exam keys
        Such as `qmri_lake.segmentation.splits.split_by_patient` returns.

    Returns
    -------
    DataFrame
        A row a split: volumes, patients, mean +- SD of age [a] and BMI [kg/m2], men / women; each
        volume counts, as in the paper; what is not known is counted beside. The paper's rows
        follow.
    """
    known = {name for name in ("age", "bmi", "sex") if name in lake.column_names()}
    columns = pd.DataFrame(lake.columns(["exam", "patient", *sorted(known)])).set_index("exam")
    rows = []
    for name, keys in split.items():
        mine = columns.loc[list(keys)]
        sex = mine["sex"] if "sex" in known else pd.Series(pd.NA, mine.index, dtype="string")
        unknown = int(sex.isna().sum())
        rows.append(
            {
                "split": name,
                "volumes": f"{len(mine):,}",
                "patients": f"{mine['patient'].nunique():,}",
                "age [a]": _spread(mine["age"] if "age" in known else None, len(mine)),
                "BMI [kg/m2]": _spread(mine["bmi"] if "bmi" in known else None, len(mine)),
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


def _spread(column: pd.Series[Any] | None, count: int) -> str:
    values = np.asarray([] if column is None else column.dropna(), float)
    if not values.size:
        return "–"
    text = f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")
    return text + (f" ({count - len(values)} unknown)" if len(values) < count else "")


def segmentation_parts(
    lake: Lake,
    cohort: Cohort,
    progress: Callable[[int, int], None] | None = None,
    *,
    models: Sequence[str | os.PathLike[str]] = (),
) -> dict[str, Any] | None:
    """Return what the section of the report shows, or None where nothing can be compared.

    Parameters
    ----------
    lake : Lake
    cohort : Cohort
    progress : callable, optional
        Called with (done, total) masks.
    models : sequence of paths, optional
        Folders of ensembles: only their test exams are compared, since networks have learned from
        the others. Default: all that have both masks.

    Returns
    -------
    dict
        `table`, Table S1; `per_exam`; `figures`, a mapping from a caption to a Figure; `exams`,
        which exams they are, in words; `flattered`, whether exams are among them that a network may
        have learned from, since no ensemble was named; `doubts`, lines on masks that the named
        ensembles did not make, or have not got; `citation`.
    """
    test = find_unseen(models)
    chosen: dict[Kind, Cohort] = {}
    words, doubts = [], []
    for kind in _KINDS:
        tested = test.get(kind)
        exams = scored(lake, _tested(cohort, tested), kind)
        if len(exams):
            chosen[kind] = exams
            doubt = _doubt(lake, exams, kind, tested)
            words.append(_counted(exams, kind, unseen=tested is not None and not doubt))
            doubts += [doubt] if doubt else []
        elif tested is not None:
            doubts.append(
                f"{_TITLES[kind]}: not compared, since none of the test exams of the ensemble that "
                "was named has both a mask and a reference here."
            )
    if not chosen and not doubts:
        return None
    total = sum(map(len, chosen.values()))
    done = 0

    def advance(_done: int, _total: int) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    scores: dict[str, pd.DataFrame] = {
        kind: score_exams(lake, exams, kind, progress=advance) for kind, exams in chosen.items()
    }
    figures = {}
    for kind in chosen:
        table = scores[kind]
        picked = _picked(table)
        figures[_caption(kind, picked)] = agreement_figure(lake, picked, kind, table)
    return {
        "table": agreement_table(scores),
        "per_exam": _per_exam(scores),
        "figures": figures,
        "exams": "; ".join(words),
        "flattered": not set(chosen) <= set(test),
        "doubts": doubts,
        "citation": CITATION,
    }


def _tested(cohort: Cohort, test: Unseen | None) -> Cohort:
    return cohort if test is None else cohort.of_exams(test.exams, "in the test set")


def _counted(exams: Cohort, kind: Kind, *, unseen: bool) -> str:
    return (
        f"{_TITLES[kind].lower()}: {counted(len(exams), 'exam')} of "
        f"{counted(exams.patients, 'patient')}" + ", unseen by the networks" * unseen
    )


def _doubt(lake: Lake, exams: Cohort, kind: Kind, test: Unseen | None) -> str:
    """Say that masks are not of the ensemble that was named: its test exams may be no test."""
    makers = {} if test is None else other_makers(lake, exams, kind, test.networks)
    if not makers:
        return ""
    words = ", ".join(f"{count:,} {maker}" for maker, count in makers.items())
    return (
        f"{_TITLES[kind]}: {sum(makers.values()):,} of {counted(len(exams), 'mask')} not made by "
        f"the ensemble that was named ({words}). Whoever made them may have learned from these "
        "exams: the figures are not those of a test."
    )


_KINDS: tuple[Kind, ...] = ("bone", "cartilage")


def _per_exam(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat([pd.DataFrame(columns=COLUMNS), *scores.values()], ignore_index=True)
    return pd.DataFrame(
        {
            "exam": table["exam"],
            "structure": table["tissue"],
            "DSC [%]": [f"{100 * x:.1f}" if np.isfinite(x) else "–" for x in table["dsc"]],
            "MPTS [mm]": [f"{x:.3f}" if np.isfinite(x) else "–" for x in table["mpts_mm"]],
            "note": table["reason"],
        }
    )


def _picked(table: pd.DataFrame) -> dict[str, str]:
    """Return the exams to show: those of the least, the median and the greatest mean MPTS."""
    means = table.groupby("exam", sort=False)["mpts_mm"].mean()
    order = means.fillna(np.inf).sort_values(kind="stable").index
    if len(order) <= _SHOWN:
        places = range(len(order))
        names = {1: ["the only one"], 2: ["best", "worst"]}.get(
            len(order), ["best", "median", "worst"]
        )
    else:
        places = (0, len(order) // 2, len(order) - 1)  # type: ignore[assignment]
        names = ["best", "median", "worst"]
    return {str(order[place]): name for place, name in zip(places, names, strict=True)}


def _caption(kind: str, picked: Mapping[str, str]) -> str:
    if len(picked) == 1:
        return f"Figure S2, {_TITLES[kind].lower()}: the only exam"
    return f"Figure S2, {_TITLES[kind].lower()}: {', '.join(picked.values())} exam by mean MPTS"


def agreement_figure(
    lake: Lake, exams: Mapping[str, str], kind: Kind, scores: pd.DataFrame
) -> Figure:
    """Draw Figure S2: where masks agree with their references, one slice an exam.

    Parameters
    ----------
    lake : Lake
    exams : mapping of key to title
        Exams with a mask and a reference, and what to call each, such as "median"; may be "".
    kind : {"bone", "cartilage"}
    scores : DataFrame
        Of `score_exams`; its MPTS, of the whole volume, is printed under each slice.

    Returns
    -------
    Figure
        True positives green, false positives cyan, false negatives magenta, over the DESS. A
        voxel where the mask has another tissue than the reference counts as false negative.
    """
    panels = [_panel(lake, exam, kind) for exam in exams]
    shapes = np.array([(panel.height, panel.width) for panel in panels])
    widths = shapes[:, 1] / shapes[:, 0]
    tall = min(4.1, _WIDEST / widths.sum())
    fig = Figure(figsize=(tall * widths.sum() + 0.15 * len(panels), tall + 0.95),
                 layout="constrained")  # fmt: skip
    axes = np.atleast_1d(fig.subplots(1, len(panels), width_ratios=widths))
    for ax, (exam, name), panel in zip(axes, exams.items(), panels, strict=True):
        panel.draw(ax)
        ax.set_title(f"{exam} ({name})" if name else exam, fontsize=9)
        mine = scores[scores["exam"] == exam]
        ax.set_xlabel(_distances(mine), fontsize=8)
    fig.legend(
        handles=[Patch(color=colour, label=name) for name, colour in COLOURS.items()],
        loc="outside lower center", ncols=3, fontsize=8, frameon=False,
    )  # fmt: skip
    return fig


def _distances(scores: pd.DataFrame) -> str:
    """Spell the MPTS of a volume, in mm, two structures a line."""
    words = [
        f"{tissue} {mpts:.2f}" if np.isfinite(mpts) else f"{tissue} –"
        for tissue, mpts in zip(scores["tissue"], scores["mpts_mm"], strict=True)
    ]
    mean = scores["mpts_mm"].mean()
    head = f"MPTS, whole volume: mean {mean:.2f} mm" if np.isfinite(mean) else "MPTS: no surface"
    return f"{head}\n{', '.join(words)}"


class _Panel:
    """One slice: image, overlay and what part of it is shown, mm."""

    def __init__(
        self,
        image: np.ndarray[Any, Any],
        ours: np.ndarray[Any, Any],
        theirs: np.ndarray[Any, Any],
        spacing: np.ndarray[Any, Any],
        affine: np.ndarray[Any, Any],
    ) -> None:
        self.image, self.spacing, self.affine = image, spacing, affine
        self.cases = {
            "true positive": (ours == theirs) & (theirs != 0),
            "false positive": (ours != 0) & (theirs == 0),
            "false negative": (theirs != 0) & (ours != theirs),
        }
        found = (ours != 0) | (theirs != 0)
        edges = []
        for axis in (0, 1):
            lines = np.flatnonzero(found.any(axis=1 - axis))
            size = found.shape[axis] * spacing[axis]
            first, last = (lines[0], lines[-1] + 1) if lines.size else (0, found.shape[axis])
            edges.append(
                (max(first * spacing[axis] - _MARGIN_MM, 0.0),
                 min(last * spacing[axis] + _MARGIN_MM, size))
            )  # fmt: skip
        (self.top, self.bottom), (self.left, self.right) = edges
        self.height, self.width = self.bottom - self.top, self.right - self.left

    def draw(self, ax: Axes) -> None:
        """Draw the image, the three cases, and the anatomical directions."""
        from qmri_lake.report.figures import directions, placed

        where = placed(self.image.shape, self.spacing)
        finite = self.image[np.isfinite(self.image)]
        top = float(np.percentile(finite, 99.5)) if finite.size else 1.0
        ax.set_facecolor("black")
        ax.imshow(self.image, cmap="gray", vmin=0, vmax=top, **where)
        for name, inside in self.cases.items():
            layer = np.zeros((*inside.shape, 4))
            layer[inside] = to_rgba(COLOURS[name], _ALPHA[name])
            ax.imshow(layer, interpolation="nearest", **where)
        ax.set_xlim(self.left, self.right)
        ax.set_ylim(self.bottom, self.top)
        ax.set_xticks([])
        ax.set_yticks([])
        directions(ax, self.affine)


def _panel(lake: Lake, exam: str, kind: Kind) -> _Panel:
    row = int(lake.select(exam=exam).rows[0])
    names = [kind, f"reference_{kind}", "affine"]
    # An exam that was made of masks alone has no image.
    names += ["image"] if "image" in lake.root["dess"] else []
    ds = read_exam(lake.root, "dess", names, row)
    ours, theirs = ds[kind].values, ds[f"reference_{kind}"].values
    affine = ds["affine"].values
    chosen = _slice(theirs, TISSUES[kind])
    return _Panel(
        ds["image"].values[chosen] if "image" in ds else np.full(ours.shape[1:], np.nan),
        ours[chosen], theirs[chosen],
        np.linalg.norm(affine[:3, 1:3], axis=0), affine,
    )  # fmt: skip


def _slice(reference: np.ndarray[Any, Any], tissues: Mapping[str, int]) -> int:
    """Return the slice that shows the most of all tissues: each as a part of its largest area."""
    total = np.zeros(reference.shape[0])
    for value in tissues.values():
        areas = np.count_nonzero(reference == value, axis=(1, 2))
        if areas.max():
            total += areas / areas.max()
    return int(total.argmax())
