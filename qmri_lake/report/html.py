"""A lake as one HTML page: self-contained, so that it can be mailed and kept."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qmri_lake.report.page import heading, write_page
from qmri_lake.report.t2 import T2Summary, summarise_t2
from qmri_lake.summary import array_sizes, counted, exams_by_visit, human_size, stored_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["write_report"]

_DPI = 110
_ATLASES = 3


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
    """Write a page about a lake: pictures and T2 of a cohort, and the history of the runs.

    Parameters
    ----------
    lake : Lake
        Read at its snapshot, which the page names.
    out : path
        The HTML file to write; its folder is made. Pictures are inside the file.
    cohort : Cohort or query, optional
        Which exams; default all.
    exams : int
        How many exams are shown with pictures, evenly spread: DESS and T2, or DESS alone.
    title : str, optional
        Default: the name of the lake.
    models : sequence of paths
        Folders of the ensembles that made the masks: only their test exams are compared with
        references, because networks have learned from the others. Default: all exams are. The page
        says so where the lake's masks are not of these ensembles.
    progress : callable, optional
        Called with (done, total) exams.

    Returns
    -------
    Path
        The file.

    Notes
    -----
    Exams are computed one after another: memory does not grow with the cohort. The page names
    exams by their keys and holds nothing else that points to a person.
    """
    chosen = lake._cohort(cohort)
    ready = _with_t2(lake, chosen)
    summary = summarise_t2(lake, ready, progress) if ready is not None else T2Summary()
    return write_page(
        "report.html",
        out,
        **heading(lake, chosen, title),
        size=human_size(stored_bytes(lake)),
        sizes=array_sizes(lake),
        with_t2=0 if ready is None else len(ready),
        flow=_html(chosen.flow()),
        visits=_html(_indexed(exams_by_visit(chosen.exams), "months")),
        steps=_html(_indexed(lake.status(chosen), "step")),
        failures=_failures(lake, chosen),
        pictures=_pictures(lake, chosen, exams),
        plots=_plots(lake, summary),
        tissues=_html(_by_tissue(summary.table), digits=1),
        per_exam=_html(_by_exam(summary.table), digits=1),
        outcomes=_html(_outcomes(summary)),
        segmentation=_segmentation(lake, chosen, models),
        maps=_maps(lake, chosen),
        regions=_html(_by_region(chosen)),
        runs=_html(_runs(lake)),
        history=_html(_history(lake)),
    )


def _with_t2(lake: Lake, cohort: Cohort) -> Cohort | None:
    return cohort.require("msme/t2") if "msme/t2" in lake.variables() else None


def _segmentation(
    lake: Lake, cohort: Cohort, models: Sequence[str | os.PathLike[str]]
) -> dict[str, Any] | None:
    """Return the section on masks that have a reference, if there are any."""
    from qmri_lake.report.segmentation import segmentation_parts

    parts = segmentation_parts(lake, cohort, models=models)
    if parts is None:
        return None
    figures = [{"caption": text, "png": _png(figure)} for text, figure in parts["figures"].items()]
    return {
        **parts,
        "table": _html(parts["table"]),
        "per_exam": _html(parts["per_exam"]),
        "figures": figures,
    }


def _maps(lake: Lake, cohort: Cohort) -> dict[str, Any] | None:
    """Return the section on spherical maps: figures, and exams whose maps are odd, if any."""
    if "sphere/map" not in lake.variables():
        return None
    mapped = cohort.require("sphere/map")
    if not len(mapped):
        return None
    from qmri_lake.report.agreement import figure_s3, map_agreement
    from qmri_lake.report.maps import cohort_atlas, cohort_mean, map_atlas

    figures = {}
    if "region/thickness" in lake.variables():
        both = mapped.require("region/thickness")
        if len(both):
            table = map_agreement(lake.load("sphere", both), lake.load("region", both))
            words = f"Figure S3: means over maps and over sources, {counted(len(both), 'exam')}"
            figures[words] = figure_s3(table)
    if len(mapped) > 1:
        words = f"Mean maps of {counted(len(mapped), 'exam')}"
        figures[words] = cohort_atlas(cohort_mean(lake.load("sphere", mapped)))
    for exam in _spread_over(mapped, _ATLASES):
        figures[f"Maps of {exam}"] = map_atlas(lake.load("sphere", exam=exam))
    odd = lake.failures("sphere")
    odd = odd[odd["exam"].isin(mapped.exams["exam"])]
    return {
        "count": counted(len(mapped), "exam"),
        "odd": _html(odd[["exam", "message"]]),
        "figures": [{"caption": text, "png": _png(fig)} for text, fig in figures.items()],
    }


def _spread_over(cohort: Cohort, count: int) -> list[str]:
    """Return `count` exams at most, evenly spread over the cohort."""
    step = max(len(cohort) / count, 1.0)
    places = sorted({int(k * step) for k in range(min(count, len(cohort)))})
    return [str(exam) for exam in cohort.exams["exam"].iloc[places]]


def _pictures(lake: Lake, cohort: Cohort, count: int) -> list[dict[str, str]]:
    """Draw `count` exams, evenly spread over those of the cohort that have images."""
    with_t2 = _having(lake, cohort, "msme/image", "msme/t2")
    with_dess = _having(lake, cohort, "dess/image")
    shown = cohort.of_exams(sorted(with_t2 | with_dess), "with images")
    if not len(shown) or not count:
        return []
    from qmri_lake.report.figures import dess_figure, exam_figure

    grades = _grades(lake)
    found = []
    for exam in _spread_over(shown, count):
        dess = lake.load("dess", exam=exam).isel(exam=0) if exam in with_dess else None
        if exam in with_t2:
            figure = exam_figure(dess, lake.load("msme", exam=exam).isel(exam=0))
        elif dess is not None:
            figure = dess_figure(dess)
        grade = grades.get(exam)
        title = exam if grade is None else f"{exam}, KL {grade:.0f}"
        found.append({"exam": title, "png": _png(figure)})
    return found


def _having(lake: Lake, cohort: Cohort, *paths: str) -> set[str]:
    """Return the exams of a cohort that have all of these variables."""
    if not set(paths) <= set(lake.variables()):
        return set()
    return set(cohort.require(*paths).exams["exam"])


def _plots(lake: Lake, summary: T2Summary) -> list[dict[str, str]]:
    if not summary.rows:
        return []
    from qmri_lake.report.figures import histogram_figure, kl_figure

    exams = summary.table["exam"].nunique()
    figure = histogram_figure(summary.histograms, exams)
    found = [{"alt": "Histogram of T2 by tissue", "png": _png(figure)}]
    graded = _graded(lake, summary.table, "femoral")
    if len(graded):
        found.append({"alt": "Mean T2 by KL grade", "png": _png(kl_figure(graded, "femoral"))})
    return found


def _graded(lake: Lake, table: pd.DataFrame, tissue: str) -> pd.DataFrame:
    """Join each exam's mean T2 of a tissue with its KL grade; empty without grades."""
    rows = table[table["tissue"] == tissue]
    grades = _grades(lake)
    joined = rows.assign(kl=[grades.get(exam, np.nan) for exam in rows["exam"]])
    return joined.dropna(subset=["kl", "mean"]).astype({"kl": float})


def _grades(lake: Lake) -> dict[str, float]:
    """Return the KL grade of each exam that has one."""
    if "kl" not in lake.column_names():
        return {}
    graded = lake.columns(["kl"])["kl"].dropna()
    return dict(zip(lake.exams["exam"].iloc[graded.index], graded.astype(float), strict=True))


def _by_tissue(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise exams: each exam counts once, whatever its number of voxels."""
    if table.empty:
        return table
    groups = table.groupby("tissue", sort=False)
    return pd.DataFrame(
        {
            "exams": groups["exam"].nunique(),
            "voxels": groups["voxels"].sum(),
            "accepted [%]": 100 * groups["accepted"].sum() / groups["voxels"].sum(),
            "mean of exam means [ms]": groups["mean"].mean(),
            "SD between exams [ms]": groups["mean"].std(),
        }
    ).reset_index()


def _by_exam(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    shown = table.assign(accepted=100 * table["accepted"] / table["voxels"])
    return shown.rename(
        columns={
            "accepted": "accepted [%]", "mean": "mean T2 [ms]", "sd": "SD [ms]",
            "median": "median [ms]",
        }
    )  # fmt: skip


def _by_region(cohort: Cohort) -> pd.DataFrame:
    """Summarise regions of cartilage over exams; empty without region averages."""
    if not _having(cohort.lake, cohort, "region/thickness"):
        return pd.DataFrame()
    from qmri_lake.surface.region_step import region_table
    from qmri_lake.surface.regions import REGIONS

    table = region_table(cohort)
    shown = {"thickness [mm]": 2, "denuded [percent]": 1, "volume [mm3]": 0, "t2 [ms]": 1}
    rows = []
    for name, mine in table.groupby("region", sort=False):
        values = {
            column.replace("t2", "T2").replace("percent", "%"): _mean_and_sd(mine[column], digits)
            for column, digits in shown.items()
            if column in mine
        }
        count = int(mine["thickness [mm]"].notna().sum())
        rows.append({"region": name, "where": REGIONS[str(name)], "exams": count, **values})
    return pd.DataFrame(rows)


def _mean_and_sd(values: pd.Series[Any], digits: int) -> str:
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
    found = lake.failures()
    return _html(found[found["exam"].isin(cohort.exams["exam"])])


def _runs(lake: Lake) -> pd.DataFrame:
    runs = lake.runs().reset_index()
    for name in ("parameters", "counts"):
        runs[name] = [_listed(record) for record in runs[name]]
    for name in ("started", "finished"):
        runs[name] = [text[:19].replace("T", " ") if text == text else "" for text in runs[name]]
    runs = runs.drop(columns=["snapshot"])
    # A column of nothing is of floats, which can't hold words.
    return runs.assign(**dict.fromkeys(runs.columns[runs.isna().all()], "")).fillna("")


def _listed(record: Any) -> str:
    """Spell parameters or counts; a run that was killed has no counts."""
    if not isinstance(record, dict):
        return ""
    words = {k: v if isinstance(v, str) else json.dumps(v) for k, v in record.items()}
    return ", ".join(f"{name}={word}" for name, word in words.items() if word != "0")


def _history(lake: Lake) -> pd.DataFrame:
    history = lake.history(30)
    times = [moment.strftime("%Y-%m-%d %H:%M:%S") for moment in history["time"]]
    return history.assign(time=times, snapshot=history["snapshot"].str[:8])


def _indexed(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return counts with their index as a column, without columns of zeros."""
    shown = frame.loc[:, (frame != 0).any()] if len(frame) else frame
    return shown.rename_axis(index=name, columns=None).reset_index()


def _html(frame: pd.DataFrame, digits: int = 0) -> str:
    """Return a table, counts with thousands separators; nothing for an empty one."""
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
