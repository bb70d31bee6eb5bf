"""Write a report with the tables and figures of the paper for a lake, and the published values."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from qmri_lake.core.text import counted
from qmri_lake.published import CITATION
from qmri_lake.report.page import page_header, write_page
from qmri_lake.report.paper.section import Section, WordTable, try_section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qmri_lake.diagnosis.labels import PainRule
    from qmri_lake.diagnosis.models.classifier import Classifier
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["Paper", "write_paper"]

_PACKAGES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "statsmodels",
    "torch",
    "tensorflow",
    "xarray",
    "zarr",
    "icechunk",
    "dask",
)


@dataclass(frozen=True)
class Paper:
    """Files that `write_paper` wrote, and sections that are incomplete."""

    page: Path
    """The report. The folders ``tables`` and ``figures`` are in the same folder."""
    tables: tuple[Path, ...]
    """LaTeX files of the tables."""
    figures: tuple[Path, ...]
    """SVG and PDF files of the figures."""
    absent: Mapping[str, str]
    """Missing parts with reasons, and other warnings, by title of the section."""

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
    """Write the tables and figures of the paper for a lake, with the published values.

    The report contains Figure S1 with the counts of the lake, Table 1, Table S1 with Figure S2,
    Figure S3, Tables S2 and S3, Figure S4, mean CAMs, likelihood-ratio tests, and the provenance of
    the classifiers. No classifier is trained, and predictions are read from the lake. If the lake
    contains exams made from synthetic truth, Tables S2 and S3 are also given separately for these
    exams.

    Parameters
    ----------
    lake : Lake
        A lake with maps, regional averages and predictions of the classifiers.
    out : path
        Output folder. The function writes ``report.html``, which is self-contained;
        ``tables/*.tex``, which require booktabs; and ``figures/*.svg`` and ``figures/*.pdf``.
        Existing files with these names are replaced.
    oa, pain : path
        Folders of the classifiers, as written by `qmri_lake.diagnosis.train_classifiers`.
    search : path, optional
        Folder of a hyperparameter search, for Figure S4.
    bones, cartilage : path, optional
        Folders of the networks that made the masks. Only the test exams of these networks are
        compared with references. Default: all masks with a reference are compared, and the report
        contains a warning.
    cohort : Cohort or query, optional
        Exams whose counts, masks and maps are shown. Default: all exams. The sets of the
        classifiers do not depend on the cohort.
    title : str, optional
        Title of the report. Default: the name of the lake.
    progress : callable, optional
        Called with the numbers of completed sections and of all sections.

    Returns
    -------
    Paper
        The written files, and the reasons why sections have no data. The report also gives these
        reasons.

    Raises
    ------
    NotFoundError
        If there are no classifiers, or their folder contains no split.
    InputError
        If a split can't be read.
    """
    from qmri_lake.diagnosis.models.ensemble import open_classifiers
    from qmri_lake.diagnosis.training.training_sets import SPLIT
    from qmri_lake.lake.balanced_split import read_split
    from qmri_lake.report.paper.class_activation import class_activation_section
    from qmri_lake.report.paper.classifiers import metrics_section, search_section, table_1_section
    from qmri_lake.report.paper.images import agreement_section, chain_section, segmentation_section

    chosen = lake.resolve(cohort)
    models = {
        task: open_classifiers(folder, task=task) for task, folder in (("oa", oa), ("pain", pain))
    }
    oa_sets, pain_sets = (read_split(lake, Path(folder) / SPLIT) for folder in (oa, pain))
    rule = _rule(pain)
    networks = [folder for folder in (bones, cartilage) if folder is not None]
    makers: dict[str, Callable[[], Section]] = {
        "Figure S1. Processing chain": lambda: chain_section(
            lake, chosen, {"oa": oa_sets, "pain": pain_sets}, {t: len(m) for t, m in models.items()}
        ),
        "Table 1. Training, validation and test sets": lambda: table_1_section(
            lake, oa_sets, bones
        ),
        "Table S1 and Figure S2. Segmentation": lambda: segmentation_section(
            lake, chosen, networks
        ),
        "Figure S3. Agreement of maps with their sources": lambda: agreement_section(lake, chosen),
        "Table S2. Classification of osteoarthritis": lambda: metrics_section(
            oa_sets.test, "oa", networks=networks
        ),
        "Figure S4. Hyperparameter search": lambda: (
            search_section(search, lake.cohort())
            if search is not None
            else Section(warnings=("Not available: no folder of a search was given.",))
        ),
        "Table S3. Classification of chronic pain": lambda: metrics_section(
            pain_sets.test, "pain", rule, networks
        ),
        "Grad-CAM and association with chronic pain": lambda: class_activation_section(
            pain_sets.test, pain, oa, rule
        ),
    }
    sections = []
    for done, (name, make) in enumerate(makers.items(), 1):
        sections.append(try_section(name, make))
        if progress is not None:
            progress(done, len(makers))
    folder = Path(out)
    tables, figures, pictures = _write(folder, sections)
    page = write_page(
        "paper.html",
        folder / "report.html",
        **page_header(lake, chosen, title),
        rule=rule,
        by_origin=_exams_by_origin(chosen),
        sections=sections,
        pictures=pictures,
        classifiers=WordTable(_cards(models)).html(),
        packages=", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        citation=CITATION,
    )
    absent = {section.title: " ".join(section.warnings) for section in sections if section.warnings}
    return Paper(page, tables, figures, absent)


def _rule(pain: str | os.PathLike[str]) -> PainRule:
    """Return the definition of pain with which the classifiers were trained."""
    from qmri_lake.diagnosis.training.training_sets import RECORD
    from qmri_lake.training.record import read_training_record

    record = read_training_record(Path(pain) / RECORD, {}, needed=("rule",), what="a training")
    rule: PainRule = record["rule"]
    return rule


def _write(
    folder: Path, sections: list[Section]
) -> tuple[tuple[Path, ...], tuple[Path, ...], dict[str, str]]:
    """Write tables and figures; return their files, and the figures for the page in base64."""
    folders = {name: folder / name for name in ("tables", "figures")}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    tables, figures, pictures = [], [], {}
    for section in sections:
        for name, titled in section.tables.items():
            tables.append(folders["tables"] / f"{name}.tex")
            tables[-1].write_text(titled.table.latex() + "\n", encoding="utf-8")
        for name, (_, figure) in section.figures.items():
            svg = _svg(figure)
            pictures[name] = base64.b64encode(svg).decode("ascii")
            figures += [folders["figures"] / f"{name}{suffix}" for suffix in (".svg", ".pdf")]
            figures[-2].write_bytes(svg)
            figure.savefig(figures[-1], metadata={"CreationDate": None})
    return tuple(tables), tuple(figures), pictures


def _svg(figure: Figure) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "qmri_lake"}):  # reproducible files
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _exams_by_origin(cohort: Cohort) -> str:
    """Return the numbers of exams by origin, or "" if no exam was made from truth."""
    from qmri_lake.report.paper.classifiers import exams_by_origin

    numbers = {
        name: f"{len(exams):,} {origin}" for name, origin, exams in exams_by_origin(cohort) if name
    }
    return "; ".join(numbers.values()) if "truth" in numbers else ""


def _cards(models: Mapping[str, Sequence[Classifier]]) -> pd.DataFrame:
    """Return a table of classifiers: recipe, best epoch and digest of the weights of each."""
    return pd.DataFrame(
        [
            {
                "task": task,
                "strategy": model.strategy,
                "bone": model.bone,
                "ResNet": model.recipe.depth,
                "pixels": model.recipe.size,
                "start": model.recipe.start,
                "learning rate": f"{model.recipe.learning_rate:g}",
                "best epoch": model.card["best_epoch"],
                "validation AUC": f"{model.card['validation_auc']:.3f}",
                "weights": model.digest,
            }
            for task, classifiers in models.items()
            for model in classifiers
        ]
    )
