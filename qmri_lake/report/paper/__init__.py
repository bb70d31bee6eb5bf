"""The paper's supplement of a lake: every table and figure in one report, its numbers beside."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from qmri_lake.report.page import heading, write_page
from qmri_lake.report.paper.part import Frame, Part, attempt
from qmri_lake.report.published import CITATION
from qmri_lake.summary import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["Paper", "write_paper"]

_PACKAGES = ("numpy", "scipy", "scikit-learn", "statsmodels", "torch", "tensorflow", "xarray",
             "zarr", "icechunk", "dask")  # fmt: skip


@dataclass(frozen=True)
class Paper:
    """What `write_paper` wrote, and what it could not."""

    page: Path
    """The report; ``tables`` and ``figures`` lie beside it."""
    tables: tuple[Path, ...]
    """LaTeX."""
    figures: tuple[Path, ...]
    """SVG and PDF."""
    absent: Mapping[str, str]
    """By the title of a part: why it is not there, or not all of it."""

    def __str__(self) -> str:
        figures = len({path.stem for path in self.figures})
        text = f"{self.page}: {counted(len(self.tables), 'table')}, {counted(figures, 'figure')}"
        return "\n".join([text, *(f"  {name}: {why}" for name, why in self.absent.items())])


def write_paper(
    lake: Lake,
    out: str | os.PathLike[str],
    *,
    oa: str | os.PathLike[str],
    pain: str | os.PathLike[str],
    search: str | os.PathLike[str] | None = None,
    bones: str | os.PathLike[str] | None = None,
    cartilage: str | os.PathLike[str] | None = None,
    cohort: Cohort | str | None = None,
    title: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Paper:
    """Write every table and figure of the paper's supplement of a lake, the paper's beside.

    Figure S1 with the lake's counts, Table 1, Table S1 with Figure S2, Figure S3, Tables S2 and S3,
    Figure S4, mean CAMs, likelihood-ratio tests; then who made it. Nothing is trained or predicted
    here: predictions are those in the lake. In a lake with synthetic knees that were made from
    their truth, Tables S2 and S3 are there for each kind of knees too.

    Parameters
    ----------
    lake : Lake
        With maps, averages of regions, and predictions of the classifiers.
    out : path
        A folder: ``report.html``, self-contained; ``tables/*.tex``, that need booktabs;
        ``figures/*.svg`` and ``*.pdf``. Files of the same names are replaced.
    oa, pain : path
        Folders of the classifiers, as `qmri_lake.diagnosis.train_classifiers` writes them.
    search : path, optional
        Folder of a search; without it there is no Figure S4.
    bones, cartilage : path, optional
        Folders of the networks that made the masks: those of their test exams are compared with
        references. Without them all masks that have a reference are, and the page says so.
    cohort : Cohort or query, optional
        Whose counts, masks and maps are shown; default all. The sets of classifiers stay theirs.
    title : str, optional
        Default: the name of the lake.
    progress : callable, optional
        Called with (done, total) parts.

    Returns
    -------
    Paper
        What was written. A part that the lake has no data for is named there with the reason, and
        on the page in its place: a lake rarely has all that the paper had.

    Raises
    ------
    NotFoundError
        No classifiers there, or no split beside them.
    InputError
        A split that can't be read.
    """
    from qmri_lake.diagnosis.ensemble import open_classifiers
    from qmri_lake.diagnosis.training_sets import SPLIT
    from qmri_lake.report.paper.classifiers import metrics, searched, sets
    from qmri_lake.report.paper.images import agreement, chain, segmentation
    from qmri_lake.report.paper.looking import looking
    from qmri_lake.splitting import read_split

    chosen = lake._cohort(cohort)
    models = {task: open_classifiers(folder, task=task)
              for task, folder in (("oa", oa), ("pain", pain))}  # fmt: skip
    oa_sets, pain_sets = (read_split(lake, Path(folder) / SPLIT) for folder in (oa, pain))
    rule = _rule(pain)
    networks = [folder for folder in (bones, cartilage) if folder is not None]
    making: dict[str, Callable[[], Part]] = {
        "Figure S1. From images to classifiers": lambda: chain(
            lake, chosen, {"oa": oa_sets, "pain": pain_sets}, {t: len(m) for t, m in models.items()}
        ),
        "Table 1. Who learns, and who tests": lambda: sets(lake, oa_sets, bones),
        "Table S1 and Figure S2. Segmentation": lambda: segmentation(lake, chosen, networks),
        "Figure S3. Maps and their sources": lambda: agreement(lake, chosen),
        "Table S2. Osteoarthritis": lambda: metrics(oa_sets.test, "oa"),
        "Figure S4. The search": lambda: searched(search) if search is not None
        else Part(absent=("No folder of a search was named.",)),
        "Table S3. Chronic pain": lambda: metrics(pain_sets.test, "pain", rule),
        "Grad-CAM and association. Where models of pain look":
            lambda: looking(pain_sets.test, pain, oa, rule),
    }  # fmt: skip
    parts = []
    for done, (name, make) in enumerate(making.items(), 1):
        parts.append(attempt(name, make))
        if progress is not None:
            progress(done, len(making))
    folder = Path(out)
    tables, figures, pictures = _write(folder, parts)
    page = write_page(
        "paper.html",
        folder / "report.html",
        **heading(lake, chosen, title),
        rule=rule,
        synthetic=_synthetic(chosen),
        parts=parts,
        pictures=pictures,
        classifiers=Frame(_cards(models)).html(),
        packages=", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        citation=CITATION,
    )
    absent = {part.title: " ".join(part.absent) for part in parts if part.absent}
    return Paper(page, tables, figures, absent)


def _rule(pain: str | os.PathLike[str]) -> Any:
    """Return the rule of pain that the classifiers have learned."""
    from qmri_lake.asked import read_asked
    from qmri_lake.diagnosis.training_sets import ASKED

    return read_asked(Path(pain) / ASKED, {}, needed=("rule",), what="a training")["rule"]


def _write(
    folder: Path, parts: list[Part]
) -> tuple[tuple[Path, ...], tuple[Path, ...], dict[str, str]]:
    """Write tables and figures; return their files, and pictures for the page by file name."""
    places = {name: folder / name for name in ("tables", "figures")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    tables, figures, pictures = [], [], {}
    for part in parts:
        for name, shown in part.tables.items():
            tables.append(places["tables"] / f"{name}.tex")
            tables[-1].write_text(shown.table.latex() + "\n", encoding="utf-8")
        for name, (_, figure) in part.figures.items():
            svg = _svg(figure)
            pictures[name] = base64.b64encode(svg).decode("ascii")
            figures += [places["figures"] / f"{name}{suffix}" for suffix in (".svg", ".pdf")]
            figures[-2].write_bytes(svg)
            figure.savefig(figures[-1], metadata={"CreationDate": None})
    return tuple(tables), tuple(figures), pictures


def _svg(figure: Figure) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "qmri_lake"}):  # the same file each time
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _synthetic(cohort: Cohort) -> str:
    """Say how many exams were made from their truth, if any were."""
    from qmri_lake.report.paper.classifiers import kinds

    found = {name: f"{len(some):,} {words}" for name, words, some in kinds(cohort) if name}
    return "; ".join(found.values()) if "truth" in found else ""


def _cards(models: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row a classifier: how it was made, and the digest of its weights."""
    rows = []
    for task, found in models.items():
        for one in found:
            card, recipe = one.card, one.recipe
            rows.append(
                {
                    "task": task, "strategy": one.strategy, "bone": one.bone,
                    "ResNet": recipe.depth, "pixels": recipe.size, "start": recipe.start,
                    "learning rate": f"{recipe.learning_rate:g}",
                    "best epoch": card["best_epoch"],
                    "validation AUC": f"{card['validation_auc']:.3f}", "weights": one.digest,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
