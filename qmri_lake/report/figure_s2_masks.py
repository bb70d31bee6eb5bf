"""Figure S2: overlap of masks with their references, one slice per exam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from qmri_lake.execution.exam_io import read_exam
from qmri_lake.report.colours import OVERLAP_COLOURS
from qmri_lake.report.slice_figures import label_directions, pixel_extent
from qmri_lake.report.synthetic_mark import mark_figure, mark_of_cohort
from qmri_lake.segmentation.evaluation.scores import TISSUES, Kind

if TYPE_CHECKING:
    from qmri_lake.lake.lake import Lake

__all__ = ["best_median_worst", "figure_s2"]

_ALPHA = {"true positive": 0.45, "false positive": 0.9, "false negative": 0.9}
_MAX_PANELS = 3
_MARGIN_MM = 6.0
_FIGURE_WIDTH = 11.3
"""Total width of all panels [inch]."""

Labels: TypeAlias = NDArray[np.uint8]
Interval: TypeAlias = tuple[float, float]


def best_median_worst(scores: pd.DataFrame) -> dict[str, str]:
    """Return the exams with the lowest, median and highest mean MPTS, each with its rank."""
    means = scores.groupby("exam", sort=False)["mpts_mm"].mean()
    order = [str(exam) for exam in means.fillna(np.inf).sort_values(kind="stable").index]
    if len(order) <= _MAX_PANELS:
        names = {1: ["only exam"], 2: ["best", "worst"]}.get(
            len(order), ["best", "median", "worst"]
        )
        return dict(zip(order, names, strict=True))
    return {order[0]: "best", order[len(order) // 2]: "median", order[-1]: "worst"}


def figure_s2(lake: Lake, exams: Mapping[str, str], kind: Kind, scores: pd.DataFrame) -> Figure:
    """Draw Figure S2: overlap of masks with their references, one slice per exam.

    Parameters
    ----------
    lake : Lake
    exams : mapping of key to title
        Exams with a mask and a reference. Titles, such as "median", may be empty.
    kind : {"bone", "cartilage"}
    scores : DataFrame
        As returned by `score_exams`. The MPTS of the whole volume is printed below each slice.

    Returns
    -------
    Figure
        DESS slices with true positives in green, false positives in cyan and false negatives in
        magenta. A voxel that has different tissues in mask and reference counts as a false
        negative.
    """
    panels = [_read_panel(lake, exam, kind) for exam in exams]
    shapes = np.array([(panel.height, panel.width) for panel in panels])
    ratios = shapes[:, 1] / shapes[:, 0]
    height = min(4.1, _FIGURE_WIDTH / ratios.sum())
    fig = Figure(
        figsize=(height * ratios.sum() + 0.15 * len(panels), height + 0.95), layout="constrained"
    )
    axes = np.atleast_1d(fig.subplots(1, len(panels), width_ratios=ratios))
    for ax, (exam, name), panel in zip(axes, exams.items(), panels, strict=True):
        panel.draw(ax)
        ax.set_title(f"{exam} ({name})" if name else exam, fontsize=9)
        ax.set_xlabel(_format_distances(scores[scores["exam"] == exam]), fontsize=8)
    fig.legend(
        handles=[Patch(color=colour, label=name) for name, colour in OVERLAP_COLOURS.items()],
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return mark_figure(fig, mark_of_cohort(lake.cohort().of_exams(list(exams), "shown")))


def _format_distances(scores: pd.DataFrame) -> str:
    """Format the mean MPTS of a volume and the MPTS of each structure [mm], on two lines."""
    values = [
        f"{tissue} {mpts:.2f}" if np.isfinite(mpts) else f"{tissue} \N{EN DASH}"
        for tissue, mpts in zip(scores["tissue"], scores["mpts_mm"], strict=True)
    ]
    mean = scores["mpts_mm"].mean()
    if np.isfinite(mean):
        return f"MPTS of the volume: mean {mean:.2f} mm\n{', '.join(values)}"
    return f"MPTS: not available\n{', '.join(values)}"


@dataclass(frozen=True, eq=False)
class _Panel:
    """One slice of an exam with its mask and reference, drawn in mm."""

    image: NDArray[np.floating]
    mask: Labels
    reference: Labels
    spacing: NDArray[np.float64]
    """Spacing of rows and columns [mm]."""
    affine: NDArray[np.float64]

    @property
    def cases(self) -> dict[str, NDArray[np.bool_]]:
        """Boolean arrays (row, column) of the pixels of each case in `OVERLAP_COLOURS`."""
        mask, reference = self.mask, self.reference
        return {
            "true positive": (mask == reference) & (reference != 0),
            "false positive": (mask != 0) & (reference == 0),
            "false negative": (reference != 0) & (mask != reference),
        }

    def visible(self, axis: int) -> Interval:
        """Return the range of rows or columns around mask and reference [mm]."""
        labelled = (self.mask != 0) | (self.reference != 0)
        lines = np.flatnonzero(labelled.any(axis=1 - axis))
        count, spacing = labelled.shape[axis], float(self.spacing[axis])
        first, last = (int(lines[0]), int(lines[-1]) + 1) if lines.size else (0, count)
        return (
            max(first * spacing - _MARGIN_MM, 0.0),
            min(last * spacing + _MARGIN_MM, count * spacing),
        )

    @property
    def height(self) -> float:
        top, bottom = self.visible(0)
        return bottom - top

    @property
    def width(self) -> float:
        left, right = self.visible(1)
        return right - left

    def draw(self, ax: Axes) -> None:
        """Draw the image, the three cases and the anatomical directions."""
        extent = pixel_extent(self.image.shape, self.spacing)
        finite = self.image[np.isfinite(self.image)]
        top = float(np.percentile(finite, 99.5)) if finite.size else 1.0
        ax.set_facecolor("black")
        ax.imshow(self.image, cmap="gray", vmin=0, vmax=top, **extent)
        for name, inside in self.cases.items():
            layer = np.zeros((*inside.shape, 4))
            layer[inside] = to_rgba(OVERLAP_COLOURS[name], _ALPHA[name])
            ax.imshow(layer, interpolation="nearest", **extent)
        top_mm, bottom_mm = self.visible(0)
        ax.set_xlim(*self.visible(1))
        ax.set_ylim(bottom_mm, top_mm)
        ax.set_xticks([])
        ax.set_yticks([])
        label_directions(ax, self.affine)


def _read_panel(lake: Lake, exam: str, kind: Kind) -> _Panel:
    row = int(lake.select(exam=exam).rows[0])
    names = [kind, f"reference_{kind}", "affine"]
    # Exams that were added from masks only have no image.
    names += ["image"] if "image" in lake.root["dess"] else []
    ds = read_exam(lake.root, "dess", names, row)
    mask, reference = ds[kind].values, ds[f"reference_{kind}"].values
    affine = ds["affine"].values
    index = _fullest_slice(reference, TISSUES[kind])
    return _Panel(
        ds["image"].values[index] if "image" in ds else np.full(mask.shape[1:], np.nan),
        mask[index],
        reference[index],
        np.linalg.norm(affine[:3, 1:3], axis=0),
        affine,
    )


def _fullest_slice(reference: Labels, tissues: Mapping[str, int]) -> int:
    """Return the slice with the largest sum of tissue areas.

    Each area is divided by the largest area of the tissue in any slice.
    """
    total = np.zeros(reference.shape[0])
    for value in tissues.values():
        areas = np.count_nonzero(reference == value, axis=(1, 2))
        if areas.max():
            total += areas / areas.max()
    return int(total.argmax())
