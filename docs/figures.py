"""Draw the figures of the documentation, from synthetic knees: ``python -m docs.figures``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

import qmri_lake as ql
from qmri_lake.lake import Lake
from qmri_lake.phantom import write_archive
from qmri_lake.report.colours import BONE_COLOURS, TISSUE_COLOURS
from qmri_lake.report.slice_figures import exam_figure
from qmri_lake.tissues import BONE, CARTILAGE

DOCS = Path(__file__).parent
SHAPE = (80, 256, 256)
EXAM = "9000001-012m-right"


def phantom_figure(lake: Lake) -> Figure:
    """Draw DESS slices from lateral to medial, with and without the true labels."""
    dess = lake.load("dess", exam=EXAM).isel(exam=0)
    chosen = [int(f * dess.sizes["slice"]) for f in (0.28, 0.40, 0.50, 0.62, 0.72)]
    fig = Figure(figsize=(11.5, 4.8), layout="constrained")
    axes = fig.subplots(2, len(chosen))
    for column, index in enumerate(chosen):
        plane = dess[["image", "bone", "cartilage"]].isel(slice=index).compute()
        for ax in axes[:, column]:
            ax.imshow(plane.image, cmap="gray", vmin=0, vmax=float(plane.image.quantile(0.995)))
            ax.set_axis_off()
        axes[1, column].imshow(_colours(plane))
    return fig


def _colours(plane: xr.Dataset) -> np.ndarray:
    layer = np.zeros((*plane.image.shape, 4))
    for name, colour in BONE_COLOURS.items():
        layer[plane.bone.values == BONE[name]] = to_rgba(colour, 0.35)
    for name, value in CARTILAGE.items():
        if name != "background":
            layer[plane.cartilage.values == value] = to_rgba(TISSUE_COLOURS[name], 0.85)
    return layer


def strategies_figure(maps: xr.Dataset) -> Figure:
    """Draw a bone's maps as each strategy merges them; (biomarker, azimuth, polar)."""
    fig = Figure(figsize=(11.5, 7.6), layout="constrained")
    for ax, strategy in zip(fig.subplots(2, 3).ravel(), ql.fusion.STRATEGIES, strict=True):
        image = ql.fusion.merge(maps, strategy)
        ax.imshow(np.clip(image.transpose("azimuth", "polar", "channel"), 0, 1))
        ax.set_title(strategy, fontsize=12)
        ax.set_yticks([55.5, 111.5, 167.5], ["lateral", "anterior", "medial"])
        ax.set_xticks([-0.5, 223.5], ["distal", f"{ql.surface.POLAR_MAX['femur']:.0f} degrees"])
        ax.set_xlabel(image.channels.replace(", ", "\n"), fontsize=9)
    return fig


def main() -> None:
    """Make a lake of a few exams and draw."""
    with tempfile.TemporaryDirectory() as folder:
        archive = write_archive(Path(folder) / "archive", exams=3, shape=SHAPE)
        lake = ql.ingest(archive.path, f"{folder}/oai.lake", masks=archive.truth).lake
        lake.run("t2")
        lake.run("sphere")
        msme = lake.load("msme", exam=EXAM).isel(exam=0)
        figures = {
            "explanation/images/phantom.png": phantom_figure(lake),
            "tutorial/images/t2.png": exam_figure(lake.load("dess", exam=EXAM).isel(exam=0), msme),
            "how_to/images/bones.png": ql.report.painted_bones(
                lake.load("sphere", exam=EXAM), "thickness"
            ),
            "tutorial/images/strategies.png": strategies_figure(
                lake.load("sphere", exam=EXAM).isel(exam=0).sel(bone="femur").compute()
            ),
        }
        for name, figure in figures.items():
            (DOCS / name).parent.mkdir(exist_ok=True)
            figure.savefig(DOCS / name, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
