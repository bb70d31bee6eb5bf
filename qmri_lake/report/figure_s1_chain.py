"""Figure S1: the processing chain from images to classifiers, with the numbers of exams."""

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

from qmri_lake.core.text import counted
from qmri_lake.errors import NotFoundError, Reason
from qmri_lake.fusion import STRATEGIES, merge, strategy_title
from qmri_lake.published import CHAIN, OA_EXAMS
from qmri_lake.report.colours import MAP_STYLES
from qmri_lake.report.map_atlases import BONE_ORDER, draw_map, one_exam
from qmri_lake.report.slice_figures import draw_dess, draw_t2, fullest_slice, t2_box
from qmri_lake.report.synthetic_mark import mark_figure, mark_of_cohort

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["ChainCounts", "chain_counts", "figure_s1", "first_complete_exam"]

REQUIRED = ("dess/image", "dess/bone", "dess/cartilage", "msme/image", "msme/t2", "sphere/map")
"""Variables that the displayed exam must have."""

_INK, _SOFT, _LINE, _TINT = "#1d2733", "#5c6b7a", "#0b5c8a", "#f1f5f8"
_NO_COUNTS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ChainCounts:
    """Numbers of exams that completed each step of the chain."""

    dess: int
    """Number of exams with masks of bones and cartilage."""
    msme: int
    """Number of exams with T2."""
    maps: int
    """Number of exams with spherical maps."""
    oa: Mapping[str, int]
    """Number of exams in each set of the OA classifiers; empty without classifiers."""
    pain: Mapping[str, int]
    """Number of exams in each set of the pain classifiers; empty without classifiers."""
    classifiers: Mapping[str, int]
    """Number of classifiers, by task."""


def chain_counts(
    cohort: Cohort,
    *,
    oa: Sequence[Cohort] = (),
    pain: Sequence[Cohort] = (),
    classifiers: Mapping[str, int] = _NO_COUNTS,
) -> ChainCounts:
    """Count the exams of a cohort that completed each step of the chain.

    Parameters
    ----------
    cohort : Cohort
    oa, pain : (train, validation, test), optional
        Sets of the OA and pain classifiers.
    classifiers : mapping, optional
        Number of classifiers by task, ``oa`` and ``pain``.
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


def first_complete_exam(cohort: Cohort) -> str | None:
    """Return the first exam with all variables of Figure S1, preferably a right knee, or None."""
    exams = cohort.require(*REQUIRED).exams
    if exams.empty:
        return None
    right = exams[exams["knee"] == "right"]
    return str((right if len(right) else exams)["exam"].iloc[0])


def figure_s1(lake: Lake, exam: str, counts: ChainCounts) -> Figure:
    """Draw Figure S1 of the paper, the chain from images to classifiers, for an exam of a lake.

    Parameters
    ----------
    lake : Lake
    exam : str
        The key of an exam with images, masks, T2 and maps, for example from `first_complete_exam`.
        Only the displayed slices and maps are computed.
    counts : ChainCounts
        Numbers of exams of the lake; the numbers of the paper are added in brackets.

    Returns
    -------
    Figure
        a: DESS with masks. b: multi-echo series with T2. c: spherical maps of bone shape, thickness
        and T2. d: merged images of six strategies and three bones in red, green and blue, clipped
        at 1. e: the classifiers with their training, validation and test sets.

    Raises
    ------
    NotFoundError
        If the exam lacks one of the variables.
    """
    chosen = lake.select(exam=exam)
    missing = [path for path in REQUIRED if not len(chosen.require(path))]
    if missing:
        raise NotFoundError(
            f"no {', '.join(missing)} of {exam}",
            expected="an exam with images, masks, T2 and maps",
            where="figure_s1",
            todo="Choose another exam: lake.cohort().require(...).",
            reason=Reason.ABSENT_EXAM,
        )
    dess, msme = (lake.load(group, chosen).isel(exam=0) for group in ("dess", "msme"))
    sphere = one_exam(lake.load("sphere", chosen))
    fig = Figure(figsize=(13.2, 9.4), layout="constrained")
    above, below = _subfigures(fig, 2, 1, height_ratios=(1.0, 1.12), hspace=0.03)
    a, b, c = _subfigures(above, 1, 3, width_ratios=(1.0, 1.0, 1.5), wspace=0.03)
    d, e = _subfigures(below, 1, 2, width_ratios=(1.9, 1.6), wspace=0.03)
    index = fullest_slice(msme)
    _add_titles(a, "a", "Segmentation", counts.dess, "DESS volumes", CHAIN["dess"])
    draw_dess(ax := a.subplots(), dess, msme, index)
    ax.set_title("")
    _add_titles(b, "b", "Registration and T2 fit", counts.msme, "T2 maps", CHAIN["msme"])
    _draw_t2_panel(b, msme, index)
    _add_titles(c, "c", "Spherical maps", counts.maps, "exams", None)
    _draw_maps(c, sphere)
    images = len(STRATEGIES) * len(BONE_ORDER)
    _add_titles(d, "d", "Merging strategies", images, "images per exam", 18)
    _draw_merged(d, sphere)
    e.suptitle("e  Classifiers", fontsize=11, fontweight="bold", x=0.02, ha="left", color=_INK)
    _draw_boxes(e.subplots(), _box_texts(counts))
    return mark_figure(fig, mark_of_cohort(chosen))


def _subfigures(
    whole: Figure | SubFigure, rows: int, columns: int, **sizes: Any
) -> list[SubFigure]:
    return list(np.ravel(np.asarray(whole.subfigures(rows, columns, **sizes))))


def _add_titles(
    panel: SubFigure, letter: str, name: str, count: int, unit: str, paper: int | None
) -> None:
    text = f"{count:,} {unit}"
    if paper is not None:
        text += f" (paper: {paper:,})"
    panel.suptitle(
        f"{letter}  {name}", fontsize=11, fontweight="bold", x=0.02, ha="left", color=_INK
    )
    panel.supxlabel(text, fontsize=9.5, color=_SOFT)


def _draw_t2_panel(panel: SubFigure, msme: xr.Dataset, index: int) -> None:
    ax = panel.subplots()
    image = draw_t2(ax, msme, index, t2_box(msme, index))
    bar = panel.colorbar(
        image, ax=ax, orientation="horizontal", shrink=0.8, aspect=28, pad=0.02, extend="both"
    )
    bar.set_label("T2 [ms]", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _draw_maps(panel: SubFigure, sphere: xr.Dataset) -> None:
    axes = panel.subplots(len(BONE_ORDER), len(MAP_STYLES))
    bones = list(sphere["bone"].values)
    for row, bone in zip(axes, BONE_ORDER, strict=True):
        status = sphere["surface_status"].values[bones.index(bone)]
        for ax, (biomarker, style) in zip(row, MAP_STYLES.items(), strict=True):
            values = sphere["map"].sel(bone=bone, biomarker=biomarker).values
            draw_map(ax, bone, biomarker, values, status)
            _label_image(
                ax,
                title=style.name if bone == BONE_ORDER[0] else "",
                label=bone if biomarker == next(iter(MAP_STYLES)) else "",
            )


def _draw_merged(panel: SubFigure, sphere: xr.Dataset) -> None:
    axes = panel.subplots(len(BONE_ORDER), len(STRATEGIES))
    for column, strategy in enumerate(STRATEGIES):
        image = merge(sphere["map"], strategy).clip(0, 1)
        for row, bone in enumerate(BONE_ORDER):
            one = image.sel(bone=bone).transpose("azimuth", "polar", "channel").values
            axes[row, column].imshow(one, interpolation="nearest")
            name = strategy_title(strategy).replace(" + ", " +\n")
            _label_image(
                axes[row, column], title=name if row == 0 else "", label=bone if column == 0 else ""
            )


def _label_image(ax: Axes, *, title: str, label: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize=8.5)
    ax.set_ylabel(label, fontsize=8.5)


def _box_texts(counts: ChainCounts) -> list[tuple[str, str]]:
    """Return the heading and text of each box of panel e."""

    def sets(exams: Mapping[str, int]) -> str:
        return " / ".join(f"{exams[name]:,}" for name in OA_EXAMS) if exams else "none"

    def classifiers(task: str) -> str:
        return counted(counts.classifiers.get(task, 0), "classifier")

    paper = " / ".join(f"{n:,}" for n in OA_EXAMS.values())
    return [
        (
            f"{classifiers('oa')} of osteoarthritis (KL \N{GREATER-THAN OR EQUAL TO} 2)",
            f"train / validation / test exams: {sets(counts.oa)}\n(paper: {paper})",
        ),
        (
            f"{classifiers('pain')} of chronic pain, pretrained on osteoarthritis",
            f"train / validation / test exams: {sets(counts.pain)}\n"
            f"(paper: {CHAIN['pain']:,} labelled maps)",
        ),
        (
            "Evaluation on held-out exams",
            "predictions of each bone, and means over tibia + femur and all three;\n"
            "bootstrap of sensitivity, specificity and AUC",
        ),
        (
            "Explanation",
            "Grad-CAM of presence and absence; DL-guided thickness;\n"
            "likelihood-ratio tests against compartment thickness",
        ),
    ]


def _draw_boxes(ax: Axes, boxes: Sequence[tuple[str, str]]) -> None:
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()
    step, height = 1 / len(boxes), 0.72 / len(boxes)
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": _INK}
    for k, (heading, text) in enumerate(boxes):
        bottom = 1 - (k + 1) * step + (step - height) / 2
        ax.add_patch(
            FancyBboxPatch(
                (0.03, bottom),
                0.94,
                height,
                facecolor=_TINT,
                edgecolor=_LINE,
                boxstyle="round,pad=0,rounding_size=0.02",
            )
        )
        ax.text(0.5, bottom + 0.78 * height, heading, fontsize=9.5, fontweight="bold", **style)
        ax.text(0.5, bottom + 0.36 * height, text, fontsize=8.5, linespacing=1.35, **style)
        if k:
            top = bottom + height
            ax.add_patch(
                FancyArrowPatch(
                    (0.5, top + step - height),
                    (0.5, top),
                    color=_LINE,
                    arrowstyle="-|>",
                    mutation_scale=13,
                    shrinkA=1,
                    shrinkB=1,
                )
            )
