"""From reference masks to trained ensembles, judged on knees that they have not seen.

Usage: python pipelines/train_segmentation.py LAKE MODELS [PRESET [MEMBERS [EPOCHS]]]

LAKE has DESS images and reference masks (qmri-lake ingest-masks). PRESET is paper, the default, or
small; MEMBERS of each ensemble and EPOCHS of each can be fewer. Start it again, and it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.report import write_report
from qmri_lake.segmentation.train import EpochDone
from qmri_lake.segmentation.training import train_ensemble, unseen_exams


def main(url: str, out: str, preset: str = "paper", members: str = "", epochs: str = "") -> None:
    """Train both ensembles, segment their test exams, write the report beside them."""
    lake = ql.open_lake(url)
    for task in ("bones", "cartilage"):
        folder = Path(out) / task

        # 1. Networks, from the exams that have a reference. What is finished is skipped.
        networks = train_ensemble(
            lake, task, preset=preset, out=folder, members=int(members) if members else None,
            epochs=int(epochs) if epochs else None, resume=True, progress=say,
            announce=print,
        )  # fmt: skip
        for network in networks:
            print(network.name, "validation DSC", network.card["validation_dsc"])

        # 2. The exams of the test set, which no member has seen; in this process, which holds the
        # networks, and the GPU, already.
        test = unseen_exams(folder)[1]
        run = lake.run(f"segment_{task}", f"exam in {test!r}", models=str(folder))
        print(run)
        if run.failed:
            print(lake.failures(f"segment_{task}"))

    # 3. Table S1 and Figure S2 of the paper, for these networks and their test exams.
    models = [Path(out) / task for task in ("bones", "cartilage")]
    print(write_report(lake, Path(out) / "report.html", models=models))


def say(done: EpochDone) -> None:
    """Print an epoch."""
    losses = f"loss {done.loss:.4f} validation {done.validation_loss:.4f}"
    print(f"{done.name} {done.epoch}/{done.epochs} {losses}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
