"""Train all classifiers, and write every table and figure of the paper in one report.

Usage: python pipelines/reproduce_paper.py LAKE OUT [--preset small] [--epochs 5] ... (--help)

LAKE needs masks, T2, spherical maps, region averages (see pipelines/biomarkers.py) and clinical
columns. As in the paper, right knees with the maps of all biomarkers are used, so that all
strategies are trained and evaluated on the same exams; --cohort selects other exams. The models are
written to OUT, and the report with its tables and figures to OUT/paper. Run the same command again
to resume.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.diagnosis.training.search import search
from qmri_lake.diagnosis.training.train_classifiers import ModelDone
from qmri_lake.training.events import EpochDone

PAPER_COHORT = "knee == 'right'"
"""The knees of the paper: in the OAI, only right knees have multi-echo images for T2."""

PARTIAL_SEARCH: dict[str, list[str]] = {
    "strategies": ["thickness"],
    "starts": ["random", "oa"],
    "frozen": ["none", "first"],
}
"""Part of the 612 models, for ``--search some``. These models need no ImageNet weights."""


def main(arguments: list[str]) -> None:
    """Train all classifiers, predict all exams, search hyperparameters, and write the report."""
    options = parse(arguments)
    lake = ql.open_lake(options.lake)
    exams = population(lake, options.cohort)
    print(exams)
    oa, pain, search_folder = (options.out / name for name in ("oa", "pain", "search"))
    shared = {
        "preset": options.preset,
        "cohort": exams,
        "resume": True,
        "epochs": options.epochs,
        "progress": print_model,
        "cluster": options.cluster,
    }

    # 1. Train 18 classifiers of osteoarthritis: six strategies for each of three bones. The split
    #    is by patient and balanced in age, BMI, sex and osteoarthritis. Finished models are
    #    skipped.
    ql.diagnosis.train_classifiers(lake, "oa", out=oa, strategies=options.strategy, **shared)
    print(lake.run("predict_oa", exams, models=str(oa), cluster=options.cluster))

    # 2. Train 18 classifiers of pain, each from the OA model, with the same split of patients.
    ql.diagnosis.train_classifiers(
        lake, "pain", oa=oa, out=pain, strategies=options.strategy, **shared
    )
    print(lake.run("predict_pain", exams, models=str(pain), cluster=options.cluster))

    # 3. Train the models of the hyperparameter search: all 612, or a part.
    if options.search != "none":
        part = PARTIAL_SEARCH if options.search == "some" else {}
        print(
            search(lake, oa=oa, out=search_folder, **part, **shared).coverage,
            "models of the search",
        )

    # 4. Write all tables and figures, next to the published numbers. Tables and figures for which
    #    the lake lacks data are listed.
    print(
        ql.report.write_paper(
            lake,
            options.out / "paper",
            oa=oa,
            pain=pain,
            bones=options.bones,
            search=search_folder if options.search != "none" else None,
            cartilage=options.cartilage,
        )
    )
    print(f"snapshot {lake.snapshot}")


def population(lake: ql.Lake, query: str) -> ql.Cohort:
    """Return the exams of a query that have values in all maps of all bones."""
    return ql.diagnosis.with_all_maps(lake.cohort(query))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lake", metavar="LAKE", help="folder or URL of the lake")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="folder for the models and the report"
    )
    parser.add_argument(
        "--cohort",
        metavar="QUERY",
        default=PAPER_COHORT,
        help="exams to use, among those with all maps (default: %(default)s, as in the paper)",
    )
    parser.add_argument(
        "--preset",
        choices=("paper", "small"),
        default="paper",
        help="settings as published, or small ones for a laptop",
    )
    parser.add_argument("--epochs", type=int, help="maximum number of epochs per model")
    parser.add_argument(
        "--strategy", action="append", help="merging strategy (repeatable; default: all six)"
    )
    parser.add_argument(
        "--search",
        choices=("all", "some", "none"),
        default="all",
        help="models of the search: all 612, some (Figure S4 states their number), or none",
    )
    parser.add_argument(
        "--bones", help="folder of the networks that segmented the bones, for Table S1"
    )
    parser.add_argument(
        "--cartilage", help="folder of the networks that segmented the cartilage, for Table S1"
    )
    parser.add_argument("--cluster", help="auto, gpu, or the URL of a Dask scheduler")
    return parser.parse_args(arguments)


def print_model(done: EpochDone | ModelDone) -> None:
    """Print the result of a model when its training ends."""
    if isinstance(done, ModelDone):
        print(done, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
