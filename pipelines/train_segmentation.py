"""Train ensembles of segmentation networks, and evaluate them on held-out exams.

Usage: python pipelines/train_segmentation.py LAKE MODELS [PRESET [MEMBERS [EPOCHS]]]

LAKE needs DESS images and reference masks (qmri-lake ingest-masks). PRESET is paper (default) or
small. MEMBERS limits the number of networks of each ensemble, and EPOCHS the number of epochs of
each network. Run the same command again to resume.
"""

from __future__ import annotations

import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.report import write_report
from qmri_lake.segmentation.training.ensemble import held_out_exams, train_ensemble
from qmri_lake.training.events import EpochDone


def main(url: str, out: str, preset: str = "paper", members: str = "", epochs: str = "") -> None:
    """Train both ensembles, segment their test exams, and write the report next to the models."""
    lake = ql.open_lake(url)
    for task in ("bones", "cartilage"):
        folder = Path(out) / task

        # 1. Train the networks on the exams with references. Finished networks are skipped.
        networks = train_ensemble(
            lake,
            task,
            preset=preset,
            out=folder,
            members=int(members) if members else None,
            epochs=int(epochs) if epochs else None,
            resume=True,
            progress=print_epoch,
            announce=print,
        )
        for network in networks:
            print(network.name, "validation DSC", network.card["validation_dsc"])

        # 2. Segment the test exams, which no member was trained on. This process already has the
        # networks and the GPU, so no cluster is needed.
        test = held_out_exams(folder)[1]
        run = lake.run(f"segment_{task}", f"exam in {test!r}", models=str(folder))
        print(run)
        if run.failed:
            print(lake.failures(f"segment_{task}"))

    # 3. Write Table S1 and Figure S2 of the paper for these networks and their test exams.
    models = [Path(out) / task for task in ("bones", "cartilage")]
    print(write_report(lake, Path(out) / "report.html", models=models))


def print_epoch(done: EpochDone) -> None:
    """Print the losses of a finished epoch."""
    losses = f"loss {done.loss:.4f} validation {done.validation_loss:.4f}"
    print(f"{done.name} {done.epoch}/{done.epochs} {losses}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
