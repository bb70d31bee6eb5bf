"""Compute spherical maps and region averages from DESS and multi-echo images.

Usage: python pipelines/biomarkers.py LAKE [BONE_NETWORKS CARTILAGE_NETWORKS]

Networks are not needed if the lake already has masks. Run the same command again to resume.
"""

from __future__ import annotations

import sys

import qmri_lake as ql
from qmri_lake.report import write_report


def main(url: str, bones: str = "", cartilage: str = "") -> None:
    """Segment exams without masks, fit T2, map bones, and write a table and a report."""
    # 1. Select the exams.
    lake = ql.open_lake(url)
    cohort = lake.cohort().require("dess/image")
    print(cohort)

    # One cluster for all steps: each worker reads each network once.
    with ql.cluster("auto") as workers:
        # 2. Segment exams with the networks. Imported masks are kept.
        if bones:
            print(lake.run("segment_bones", cohort, models=bones, cluster=workers))
            print(lake.run("segment_cartilage", cohort, models=cartilage, cluster=workers))
            print(lake.run("check_masks", cohort, cluster=workers))

        # 3. Register both series, transfer the cartilage masks, and fit T2 in them.
        both = cohort.require("msme/image")
        print(lake.run("register", both, cluster=workers))
        print(lake.run("t2", both, cluster=workers))

        # 4. Map shape, thickness and T2 of each bone onto a sphere, as input for classifiers.
        print(lake.plan("sphere", both))
        print(lake.run("sphere", both, cluster=workers))

        # 5. Average thickness, volume and T2 over regions, for statistics.
        print(lake.run("region", both, cluster=workers))

        # 6. Map knees without multi-echo images, such as left knees of the OAI, without T2.
        others = set(cohort.exams["exam"]) - set(both.exams["exam"])
        if others:
            without_t2 = cohort.of_exams(others, "without multi-echo images")
            print(lake.run("sphere", without_t2, with_t2=False, cluster=workers))
            print(lake.run("region", without_t2, with_t2=False, cluster=workers))
    ql.region_table(lake.cohort()).to_csv(f"{url}.regions.csv", index=False)

    # 7. List failed and flagged exams, print the snapshot to cite, and write a report.
    print(lake.failures().to_string(index=False))
    print(f"snapshot {lake.snapshot}")
    print(write_report(lake, f"{url}.report.html", cohort))


# Workers import this file: without this guard, each would start another cluster.
if __name__ == "__main__":
    main(*sys.argv[1:])
