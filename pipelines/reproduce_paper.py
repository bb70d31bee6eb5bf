"""From spherical maps to every table and figure of the paper, in one report. Read top to bottom.

Usage: python pipelines/reproduce_paper.py LAKE OUT [--preset small] [--epochs 5] ... (--help)

LAKE has masks, T2, spherical maps and averages of regions, as pipelines/biomarkers.py leaves it,
and clinical columns. OUT gets the models, and paper/report.html with tables and figures beside.
Start it again, and it goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.diagnosis.search import search
from qmri_lake.diagnosis.training import ModelDone
from qmri_lake.segmentation.train import EpochDone

SOME: dict[str, list[str]] = {"strategies": ["thickness"], "starts": ["random", "oa"],
                              "frozen": ["none", "first"]}  # fmt: skip
"""What --search some tries of the 612: without ImageNet, whose weights may be out of reach."""


def main(arguments: list[str]) -> None:
    """Train all classifiers, predict all exams, search, and write the report."""
    asked = parse(arguments)
    lake = ql.open_lake(asked.lake)
    oa, pain, searched = (asked.out / name for name in ("oa", "pain", "search"))
    shared = {"preset": asked.preset, "resume": True, "epochs": asked.epochs, "progress": say,
              "cluster": asked.cluster}  # fmt: skip

    # 1. 18 classifiers of osteoarthritis, six strategies by three bones: who learns is drawn here,
    #    by patient, balanced in age, BMI and sex. What is finished is not trained again.
    ql.diagnosis.train_classifiers(lake, "oa", out=oa, strategies=asked.strategy, **shared)
    print(lake.run("predict_oa", models=str(oa), cluster=asked.cluster))

    # 2. 18 classifiers of pain, each from that of osteoarthritis, of the same patients.
    ql.diagnosis.train_classifiers(
        lake, "pain", oa=oa, out=pain, strategies=asked.strategy, **shared
    )
    print(lake.run("predict_pain", models=str(pain), cluster=asked.cluster))

    # 3. The search: 612 models, or a part that says so.
    if asked.search != "none":
        part = SOME if asked.search == "some" else {}
        print(search(lake, oa=oa, out=searched, **part, **shared).told, "models of the search")

    # 4. Every table and figure, the paper's numbers beside. What the lake can't give is named.
    print(
        ql.report.write_paper(
            lake, asked.out / "paper", oa=oa, pain=pain, bones=asked.bones,
            search=searched if asked.search != "none" else None, cartilage=asked.cartilage,
        )
    )  # fmt: skip
    print(f"snapshot {lake.snapshot}")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lake", metavar="LAKE")
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--preset", choices=("paper", "small"), default="paper")
    parser.add_argument("--epochs", type=int, help="of each model at most")
    parser.add_argument("--strategy", action="append", help="repeatable; default: all six")
    parser.add_argument("--search", choices=("all", "some", "none"), default="all",
                        help="all 612 models, some, which the figure says, or none")  # fmt: skip
    parser.add_argument("--bones", help="networks that made the bone masks, for Table S1")
    parser.add_argument("--cartilage", help="networks that made the cartilage masks")
    parser.add_argument("--cluster", help="auto, gpu, or a Dask scheduler: a model a GPU")
    return parser.parse_args(arguments)


def say(done: EpochDone | ModelDone) -> None:
    """Print a model that has ended."""
    if isinstance(done, ModelDone):
        print(done, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
