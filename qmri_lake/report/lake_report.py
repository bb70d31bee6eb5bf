"""Write the report of a lake as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.text import counted, format_bytes
from qmri_lake.lake.summary import array_sizes, exams_by_visit, stored_bytes
from qmri_lake.published import CITATION
from qmri_lake.report.page import page_header, write_page
from qmri_lake.report.synthetic_mark import mark_figure, mark_of_cohort
from qmri_lake.report.t2_summary import T2Summary, summarise_t2

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["write_report"]

_DPI = 110
_MAX_ATLASES = 3


def write_report(
    lake: Lake,
    out: str | os.PathLike[str],
    cohort: Cohort | str | None = None,
    *,
    exams: int = 6,
    title: str = "",
    models: Sequence[str | os.PathLike[str]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write an HTML report of a lake: cohort, progress, results with images, and history.

    Parameters
    ----------
    lake : Lake
        The lake, which is read at its snapshot. The page states the snapshot.
    out : path
        HTML file to write. Missing folders are created. All images are embedded in the file.
    cohort : Cohort or query, optional
        Exams of the report. Default: all exams.
    exams : int
        Number of exams for which images are shown, evenly spaced over the cohort. DESS and T2 are
        shown, or DESS only if there is no T2.
    title : str, optional
        Title of the page. Default: the name of the lake.
    models : sequence of paths
        Folders of the ensembles that made the masks. Only the test exams of these ensembles are
        compared with references; their training and validation exams are excluded, and the page
        states their number. Default: all exams are compared, and the page warns that it is unknown
        whether they are held out. The page also warns if masks of the lake were not made by these
        ensembles.
    progress : callable, optional
        Called with the numbers of completed exams and of all exams.

    Returns
    -------
    Path
        Path of the HTML file.

    Notes
    -----
    Exams are computed one after another, so memory does not grow with the cohort. The page
    identifies exams by their keys and contains no other personal data.
    """
    chosen = lake.resolve(cohort)
    ready = _with_t2(lake, chosen)
    summary = summarise_t2(lake, ready, progress) if ready is not None else T2Summary()
    return write_page(
        "report.html",
        out,
        **page_header(lake, chosen, title),
        size=format_bytes(stored_bytes(lake)),
        sizes=array_sizes(lake),
        with_t2=0 if ready is None else len(ready),
        flow=_html(chosen.flow()),
        visits=_html(_index_as_column(exams_by_visit(chosen.exams), "months")),
        steps=_html(_index_as_column(lake.status(chosen), "step")),
        failures=_failures(lake, chosen),
        pictures=_pictures(lake, chosen, exams),
        plots=_plots(lake, summary),
        tissues=_html(_by_tissue(summary.table), digits=1),
        per_exam=_html(_by_exam(summary.table), digits=1),
        outcomes=_html(_outcomes(summary)),
        segmentation=_segmentation_section(lake, chosen, models),
        citation=CITATION,
        maps=_maps_section(lake, chosen),
        regions=_html(_by_region(chosen)),
        runs=_html(_runs(lake)),
        history=_html(_history(lake)),
    )


def _with_t2(lake: Lake, cohort: Cohort) -> Cohort | None:
    return cohort.require("msme/t2") if "msme/t2" in lake.variables() else None


def _segmentation_section(
    lake: Lake, cohort: Cohort, models: Sequence[str | os.PathLike[str]]
) -> JsonObject | None:
    """Return the section that compares masks with references, or None if there are none."""
    from qmri_lake.report.segmentation_report import segmentation_results

    results = segmentation_results(lake, cohort, models=models)
    if results is None:
        return None
    return {
        "table": _html(results.table),
        "per_exam": _html(results.per_exam),
        "figures": [
            {"caption": text, "png": _png(figure)} for text, figure in results.figures.items()
        ],
        "exams": results.exams,
        "may_include_training_exams": results.may_include_training_exams,
        "warnings": results.warnings,
    }


def _maps_section(lake: Lake, cohort: Cohort) -> JsonObject | None:
    """Return the section on spherical maps: figures, and exams with flagged maps."""
    if "sphere/map" not in lake.variables():
        return None
    mapped = cohort.require("sphere/map")
    if not len(mapped):
        return None
    from qmri_lake.report.figure_s3_agreement import figure_s3, map_agreement
    from qmri_lake.report.map_atlases import cohort_atlas, cohort_mean, map_atlas

    figures = {}
    if "region/thickness" in lake.variables():
        both = mapped.require("region/thickness")
        if len(both):
            table = map_agreement(lake.load("sphere", both), lake.load("region", both))
            number = counted(len(both), "exam")
            caption = f"Figure S3: agreement of spherical maps with their source data, {number}"
            figures[caption] = figure_s3(table)
    if len(mapped) > 1:
        caption = f"Mean maps of {counted(len(mapped), 'exam')}"
        figures[caption] = cohort_atlas(cohort_mean(lake.load("sphere", mapped)))
    for exam in _spread_evenly(mapped, _MAX_ATLASES):
        figures[f"Maps of {exam}"] = map_atlas(lake.load("sphere", exam=exam))
    flagged = lake.failures("sphere")
    flagged = flagged[flagged["exam"].isin(mapped.exams["exam"])]
    return {
        "count": counted(len(mapped), "exam"),
        "flagged": _html(flagged[["exam", "message"]]),
        "figures": [{"caption": text, "png": _png(fig)} for text, fig in figures.items()],
    }


def _spread_evenly(cohort: Cohort, count: int) -> list[str]:
    """Return at most `count` exams, evenly spaced over the cohort."""
    step = max(len(cohort) / count, 1.0)
    positions = sorted({int(k * step) for k in range(min(count, len(cohort)))})
    return [str(exam) for exam in cohort.exams["exam"].iloc[positions]]


def _pictures(lake: Lake, cohort: Cohort, count: int) -> list[dict[str, str]]:
    """Draw `count` exams, evenly spaced over the exams with images."""
    with_t2 = _exams_with(lake, cohort, "msme/image", "msme/t2")
    with_dess = _exams_with(lake, cohort, "dess/image")
    with_images = cohort.of_exams(sorted(with_t2 | with_dess), "with images")
    if not len(with_images) or not count:
        return []
    from qmri_lake.report.slice_figures import dess_figure, exam_figure

    grades = _grades(lake)
    pictures = []
    for exam in _spread_evenly(with_images, count):
        dess = lake.load("dess", exam=exam).isel(exam=0) if exam in with_dess else None
        if exam in with_t2:
            figure = exam_figure(dess, lake.load("msme", exam=exam).isel(exam=0))
        elif dess is not None:
            figure = dess_figure(dess)
        grade = grades.get(exam)
        title = exam if grade is None else f"{exam}, KL {grade:.0f}"
        pictures.append({"exam": title, "png": _png(figure)})
    return pictures


def _exams_with(lake: Snapshot, cohort: Cohort, *paths: str) -> set[str]:
    """Return the exams of a cohort that have all the given variables."""
    if not set(paths) <= set(lake.variables()):
        return set()
    return set(cohort.require(*paths).exams["exam"])


def _plots(lake: Lake, summary: T2Summary) -> list[dict[str, str]]:
    if not summary.rows:
        return []
    from qmri_lake.report.slice_figures import histogram_figure, kl_figure

    exams = summary.table["exam"].nunique()
    figure = histogram_figure(summary.histograms, exams)
    shown = lake.cohort().of_exams(list(dict.fromkeys(summary.table["exam"])), "with T2")
    mark = mark_of_cohort(shown)
    plots = [{"alt": "Histogram of T2 by tissue", "png": _png(mark_figure(figure, mark))}]
    graded = _graded(lake, summary.table, "femoral")
    if len(graded):
        alt = "Mean T2 of femoral cartilage by KL grade"
        figure = mark_figure(kl_figure(graded, "femoral"), mark)
        plots.append({"alt": alt, "png": _png(figure)})
    return plots


def _graded(lake: Lake, table: pd.DataFrame, tissue: str) -> pd.DataFrame:
    """Join the mean T2 of a tissue with the KL grade of each exam; empty without grades."""
    rows = table[table["tissue"] == tissue]
    grades = _grades(lake)
    joined = rows.assign(kl=[grades.get(exam, np.nan) for exam in rows["exam"]])
    return joined.dropna(subset=["kl", "mean"]).astype({"kl": float})


def _grades(lake: Lake) -> dict[str, float]:
    """Return the KL grades of the exams with a known grade."""
    if "kl" not in lake.column_names():
        return {}
    graded = lake.columns(["kl"])["kl"].dropna()
    return dict(zip(lake.exams["exam"].iloc[graded.index], graded.astype(float), strict=True))


def _by_tissue(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise T2 by tissue; exams have equal weight, independent of their number of voxels."""
    if table.empty:
        return table
    groups = table.groupby("tissue", sort=False)
    return pd.DataFrame(
        {
            "exams": groups["exam"].nunique(),
            "voxels": groups["voxels"].sum(),
            "accepted [%]": 100 * groups["accepted"].sum() / groups["voxels"].sum(),
            "mean of exam means [ms]": groups["mean"].mean(),
            "SD of exam means [ms]": groups["mean"].std(),
        }
    ).reset_index()


def _by_exam(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    shown = table.assign(accepted=100 * table["accepted"] / table["voxels"])
    return shown.rename(
        columns={
            "accepted": "accepted [%]",
            "mean": "mean T2 [ms]",
            "sd": "SD [ms]",
            "median": "median [ms]",
        }
    )


def _by_region(cohort: Cohort) -> pd.DataFrame:
    """Summarise cartilage regions over exams; empty without regional averages."""
    if not _exams_with(cohort.lake, cohort, "region/thickness"):
        return pd.DataFrame()
    from qmri_lake.steps.regions import region_table
    from qmri_lake.surface.regions import REGIONS

    table = region_table(cohort)
    columns = {
        "thickness [mm]": ("thickness [mm]", 2),
        "denuded [percent]": ("denuded [%]", 1),
        "volume [mm3]": ("volume [mm\N{SUPERSCRIPT THREE}]", 0),
        "t2 [ms]": ("T2 [ms]", 1),
    }
    rows = []
    for name, values in table.groupby("region", sort=False):
        cells = {
            title: _mean_and_sd(values[column], digits)
            for column, (title, digits) in columns.items()
            if column in values
        }
        count = int(values["thickness [mm]"].notna().sum())
        rows.append({"region": name, "location": REGIONS[str(name)], "exams": count, **cells})
    return pd.DataFrame(rows)


def _mean_and_sd(values: pd.Series, digits: int) -> str:
    if not values.notna().any():
        return "–"
    spread = f" ± {values.std():,.{digits}f}" if values.count() > 1 else ""
    return f"{values.mean():,.{digits}f}{spread}"


def _outcomes(summary: T2Summary) -> pd.DataFrame:
    total = sum(summary.outcomes.values())
    rows = [
        (name.replace("_", " "), count, f"{100 * count / total:.1f} %")
        for name, count in summary.outcomes.items()
    ]
    return pd.DataFrame(rows, columns=["outcome of the fit", "voxels", "share"])


def _failures(lake: Lake, cohort: Cohort) -> str:
    failures = lake.failures()
    return _html(failures[failures["exam"].isin(cohort.exams["exam"])])


def _runs(lake: Lake) -> pd.DataFrame:
    runs = lake.runs().reset_index()
    for name in ("parameters", "counts"):
        runs[name] = [_format_record(record) for record in runs[name]]
    for name in ("started", "finished"):
        runs[name] = [text[:19].replace("T", " ") if text == text else "" for text in runs[name]]
    runs = runs.drop(columns=["snapshot"])
    # A column without values has a float dtype, which can't hold text.
    return runs.assign(**dict.fromkeys(runs.columns[runs.isna().all()], "")).fillna("")


def _format_record(record: object) -> str:
    """Return the parameters or counts of a run as text; a run that was killed has no counts."""
    if not isinstance(record, dict):
        return ""
    texts = {k: v if v and isinstance(v, str) else json.dumps(v) for k, v in record.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items() if text != "0")


def _history(lake: Lake) -> pd.DataFrame:
    history = lake.history(30)
    times = [moment.strftime("%Y-%m-%d %H:%M:%S") for moment in history["time"]]
    return history.assign(time=times, snapshot=history["snapshot"].str[:8])


def _index_as_column(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Turn the index of a table of counts into a column; drop columns that are all zero."""
    nonzero = frame.loc[:, (frame != 0).any()] if len(frame) else frame
    return nonzero.rename_axis(index=name, columns=None).reset_index()


def _html(frame: pd.DataFrame, digits: int = 0) -> str:
    """Return an HTML table, counts with thousands separators; "" for an empty table."""
    if frame.empty:
        return ""
    counts = [
        name
        for name in frame.columns
        if pd.api.types.is_integer_dtype(frame[name]) and name not in ("months", "run")
    ]
    text: str = frame.to_html(
        index=False,
        border=0,
        na_rep="–",
        float_format=lambda value: f"{value:,.{digits}f}",
        formatters=dict.fromkeys(counts, "{:,}".format),
    )
    return text


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")
