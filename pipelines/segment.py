"""Segment DESS images, and compute T2 maps in cartilage.

Usage: python pipelines/segment.py LAKE BONE_NETWORKS CARTILAGE_NETWORKS
"""

from __future__ import annotations

import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.report import write_report


def main(url: str, bones: str, cartilage: str) -> None:
    """Segment exams, transfer the masks to the multi-echo grid, fit T2, and write the report."""
    # 1. Select the exams. Imported masks are kept.
    lake = ql.open_lake(url)
    cohort = lake.cohort().require("dess/image")
    print(cohort)

    # One cluster for all steps: each worker reads each network once.
    with ql.cluster("auto") as workers:
        # 2. Print the plan with the projected memory, then segment.
        for step, models in (("segment_bones", bones), ("segment_cartilage", cartilage)):
            print(lake.plan(step, cohort, models=models))
            print(lake.run(step, cohort, models=models, cluster=workers))

        # 3. Flag masks that are implausible or show a knee of the other side. No mask is removed.
        print(lake.run("check_masks", cohort, cluster=workers))

        # 4. Transfer cartilage masks to the multi-echo grid, and fit T2 in them.
        both = cohort.require("msme/image")
        print(lake.run("register", both, cluster=workers))
        print(lake.run("t2", both, cluster=workers))

    # 5. List failed and flagged exams, print the snapshot to cite, and write a report.
    print(lake.failures().to_string(index=False))
    print(f"snapshot {lake.snapshot}")
    # Masks are compared with references only on exams that the networks were not trained on.
    ensembles = [folder for folder in (bones, cartilage) if (Path(folder) / "split.json").is_file()]
    print(write_report(lake, f"{url}.report.html", cohort, models=ensembles))


# Workers import this file: without this guard, each would start another cluster.
if __name__ == "__main__":
    main(*sys.argv[1:])
