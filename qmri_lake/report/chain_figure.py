"""Figure S1: from the images of one exam to what classifiers say, with the counts of a lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from qmri_lake.errors import NotFoundError, Reason
from qmri_lake.fusion import STRATEGIES, merge
from qmri_lake.report.classifier_tables import TITLES
from qmri_lake.report.figures import draw_dess, draw_t2, fullest_slice, t2_box
from qmri_lake.report.maps import ORDER, SHOWN, draw_map, one_exam
from qmri_lake.report.published import CHAIN, OA_EXAMS
from qmri_lake.summary import counted

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["ChainCounts", "chain_counts", "drawable", "figure_s1"]

NEEDED = ("dess/image", "dess/bone", "dess/cartilage", "msme/image", "msme/t2", "sphere/map")
"""What the exam of the drawing must have."""

_INK, _SOFT, _LINE, _TINT = "#1d2733", "#5c6b7a", "#0b5c8a", "#f1f5f8"


_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ChainCounts:
    """How many exams went through each part of the chain."""

    dess: int
    """With masks of bones and cartilage."""
    msme: int
    """With T2."""
    maps: int
    """With spherical maps."""
    oa: Mapping[str, int]
    """Of the classifiers of OA, by set; empty if there are none."""
    pain: Mapping[str, int]
    """Likewise, of pain."""
    classifiers: Mapping[str, int]
    """How many there are, by task."""


def chain_counts(
    cohort: Cohort,
    *,
    oa: Sequence[Cohort] = (),
    pain: Sequence[Cohort] = (),
    classifiers: Mapping[str, int] = _NONE,
) -> ChainCounts:
    """Count the exams of a cohort that went through each part of the chain.

    Parameters
    ----------
    cohort : Cohort
    oa, pain : (train, validation, test), optional
        The sets of the classifiers.
    classifiers : mapping, optional
        How many there are, by task: ``oa`` and ``pain``.
    """
    names = tuple(OA_EXAMS)
    return ChainCounts(
        dess=len(cohort.require("dess/bone", "dess/cartilage")),
        msme=len(cohort.require("msme/t2")),
        maps=len(cohort.require("sphere/map")),
        oa=dict(zip(names, map(len, oa), strict=False)),
        pain=dict(zip(names, map(len, pain), strict=False)),
        classifiers=classifiers,
    )


def drawable(cohort: Cohort) -> str | None:
    """Return the first exam that has all that Figure S1 shows, a right knee before a left one."""
    exams = cohort.require(*NEEDED).exams
    if exams.empty:
        return None
    right = exams[exams["knee"] == "right"]
    return str((right if len(right) else exams)["exam"].iloc[0])


def figure_s1(lake: Lake, exam: str, counts: ChainCounts) -> Figure:
    """Draw the chain from images to classifiers: Figure S1 of the paper, of a lake's own exam.

    Parameters
    ----------
    lake : Lake
    exam : str
        Its key: with images, masks, T2 and maps, such as `drawable` finds. Only what is drawn is
        computed.
    counts : ChainCounts
        Of the lake; the paper's are printed beside.

    Returns
    -------
    Figure
        a: the DESS with masks. b: the multi-echo series with T2. c: bone shape, thickness and T2 on
        spheres. d: the images of six strategies and three bones, red, green and blue as merged,
        brightness above 1 cut. e: the classifiers, and who they learned from.

    Raises
    ------
    NotFoundError
        The exam lacks something.
    """
    chosen = lake.select(exam=exam)
    absent = [path for path in NEEDED if not len(chosen.require(path))]
    if absent:
        raise NotFoundError(
            f"no {', '.join(absent)} of {exam}", expected="an exam with images, masks, T2 and maps",
            where="figure_s1", todo="Choose another exam: lake.cohort().require(...).",
            reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    dess, msme = (lake.load(group, chosen).isel(exam=0) for group in ("dess", "msme"))
    sphere = one_exam(lake.load("sphere", chosen))
    fig = Figure(figsize=(13.2, 9.4), layout="constrained")
    above, below = _parts(fig, 2, 1, height_ratios=(1.0, 1.12), hspace=0.03)
    a, b, c = _parts(above, 1, 3, width_ratios=(1.0, 1.0, 1.5), wspace=0.03)
    d, e = _parts(below, 1, 2, width_ratios=(1.9, 1.6), wspace=0.03)
    place = fullest_slice(msme)
    _titled(a, "a", "Bones and cartilage", counts.dess, "DESS volumes", CHAIN["dess"])
    draw_dess(ax := a.subplots(), dess, msme, place)
    ax.set_title("")
    _titled(b, "b", "Masks registered, T2 fitted", counts.msme, "T2 maps", CHAIN["msme"])
    _t2(b, msme, place)
    _titled(c, "c", "Maps on spheres", counts.maps, "exams", None)
    _maps(c, sphere)
    _titled(d, "d", "Six strategies", len(STRATEGIES) * len(ORDER), "images an exam", 18)
    _merged(d, sphere)
    e.suptitle("e  Classifiers", fontsize=11, fontweight="bold", x=0.02, ha="left", color=_INK)
    _boxes(e.subplots(), _words(counts))
    return fig


def _parts(whole: Figure | SubFigure, rows: int, columns: int, **sizes: Any) -> list[SubFigure]:
    return list(np.ravel(np.asarray(whole.subfigures(rows, columns, **sizes))))


def _titled(
    part: SubFigure, letter: str, name: str, count: int, what: str, paper: int | None
) -> None:
    words = f"{count:,} {what}"
    if paper is not None:
        words += f" (paper: {paper:,})"
    part.suptitle(f"{letter}  {name}", fontsize=11, fontweight="bold", x=0.02, ha="left",
                  color=_INK)  # fmt: skip
    part.supxlabel(words, fontsize=9.5, color=_SOFT)


def _t2(part: SubFigure, msme: xr.Dataset, place: int) -> None:
    ax = part.subplots()
    shown = draw_t2(ax, msme, place, t2_box(msme, place))
    bar = part.colorbar(shown, ax=ax, orientation="horizontal", shrink=0.8, aspect=28, pad=0.02,
                        extend="both")  # fmt: skip
    bar.set_label("T2 [ms]", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _maps(part: SubFigure, sphere: xr.Dataset) -> None:
    axes = part.subplots(len(ORDER), len(SHOWN))
    bones = list(sphere["bone"].values)
    for row, bone in zip(axes, ORDER, strict=True):
        status = sphere["surface_status"].values[bones.index(bone)]
        for ax, (biomarker, look) in zip(row, SHOWN.items(), strict=True):
            values = sphere["map"].sel(bone=bone, biomarker=biomarker).values
            draw_map(ax, bone, biomarker, values, status)
            _bare(ax, title=look.name if bone == ORDER[0] else "",
                  side=bone if biomarker == next(iter(SHOWN)) else "")  # fmt: skip


def _merged(part: SubFigure, sphere: xr.Dataset) -> None:
    axes = part.subplots(len(ORDER), len(STRATEGIES))
    for column, strategy in enumerate(STRATEGIES):
        image = merge(sphere["map"], strategy).clip(0, 1)
        for row, bone in enumerate(ORDER):
            one = image.sel(bone=bone).transpose("azimuth", "polar", "channel").values
            axes[row, column].imshow(one, interpolation="nearest")
            name = TITLES[strategy].replace(" + ", " +\n")
            _bare(axes[row, column], title=name if row == 0 else "",
                  side=bone if column == 0 else "")  # fmt: skip


def _bare(ax: Axes, *, title: str, side: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize=8.5)
    ax.set_ylabel(side, fontsize=8.5)


def _words(counts: ChainCounts) -> list[tuple[str, str]]:
    """Return the boxes of part e: a line, and what stands below it."""

    def sets(found: Mapping[str, int]) -> str:
        return " / ".join(f"{found[name]:,}" for name in OA_EXAMS) if found else "not trained"

    def how_many(task: str) -> str:
        return counted(counts.classifiers.get(task, 0), "classifier")

    paper = " / ".join(f"{n:,}" for n in OA_EXAMS.values())
    return [
        (f"{how_many('oa')} of osteoarthritis, KL > 1 against KL < 2",
         f"train / validation / test exams: {sets(counts.oa)}\n(paper: {paper})"),
        (f"{how_many('pain')} of chronic pain, each from that of osteoarthritis",
         f"train / validation / test exams: {sets(counts.pain)}\n"
         f"(paper: {CHAIN['pain']:,} labelled maps)"),
        ("Means over bones",
         "patella, tibia, femur; tibia + femur; all three\n"
         "sensitivity, specificity and AUC by bootstrap"),
        ("Where they look",
         "Grad-CAM of presence and absence; thickness where models look;\n"
         "likelihood-ratio tests beyond compartments"),
    ]  # fmt: skip


def _boxes(ax: Axes, words: Sequence[tuple[str, str]]) -> None:
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()
    step, tall = 1 / len(words), 0.72 / len(words)
    style: dict[str, Any] = {"ha": "center", "color": _INK}
    for k, (head, below) in enumerate(words):
        bottom = 1 - (k + 1) * step + (step - tall) / 2
        ax.add_patch(FancyBboxPatch((0.03, bottom), 0.94, tall, facecolor=_TINT, edgecolor=_LINE,
                                    boxstyle="round,pad=0,rounding_size=0.02"))  # fmt: skip
        ax.text(0.5, bottom + 0.78 * tall, head, va="center", fontsize=9.5, fontweight="bold",
                **style)  # fmt: skip
        ax.text(0.5, bottom + 0.36 * tall, below, va="center", fontsize=8.5, linespacing=1.35,
                **style)  # fmt: skip
        if k:
            top = bottom + tall
            ax.add_patch(FancyArrowPatch((0.5, top + step - tall), (0.5, top), color=_LINE,
                                         arrowstyle="-|>", mutation_scale=13, shrinkA=1,
                                         shrinkB=1))  # fmt: skip
