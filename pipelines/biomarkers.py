"""From DESS and multi-echo images to spherical maps and region averages. Read top to bottom.

Usage: python pipelines/biomarkers.py LAKE [BONE_NETWORKS CARTILAGE_NETWORKS]

Without networks, for a lake that has masks. Start it again, and it goes on.
"""

from __future__ import annotations

import sys

import qmri_lake as ql
from qmri_lake.report import write_report


def main(url: str, bones: str = "", cartilage: str = "") -> None:
    """Segment what has no masks yet, register, fit T2, map; write the tables and the report."""
    # 1. Whose knees are these?
    lake = ql.open_lake(url)
    cohort = lake.cohort().require("dess/image")
    print(cohort)

    # One set of workers for all steps: each of them reads a network once.
    with ql.cluster("auto") as workers:
        # 2. Masks, by networks. Those that were imported stay as they are.
        if bones:
            print(lake.run("segment_bones", cohort, models=bones, cluster=workers))
            print(lake.run("segment_cartilage", cohort, models=cartilage, cluster=workers))
            print(lake.run("check_masks", cohort, cluster=workers))

        # 3. How the knee moved between the series, cartilage there, and T2 in it.
        both = cohort.require("msme/image")
        print(lake.run("register", both, cluster=workers))
        print(lake.run("t2", both, cluster=workers))

        # 4. Shape, thickness and T2 of each bone on a sphere, for classifiers.
        print(lake.plan("sphere", both))
        print(lake.run("sphere", both, cluster=workers))

        # 5. Thickness, volume and T2 of regions, for people.
        print(lake.run("region", both, cluster=workers))

        # 6. Knees without multi-echo images, such as the left ones of the OAI: without T2.
        others = set(cohort.exams["exam"]) - set(both.exams["exam"])
        if others:
            alone = cohort.of_exams(others, "without multi-echo images")
            print(lake.run("sphere", alone, with_t2=False, cluster=workers))
            print(lake.run("region", alone, with_t2=False, cluster=workers))
    ql.region_table(lake.cohort()).to_csv(f"{url}.regions.csv", index=False)

    # 7. What is odd or went wrong, a version to cite, and a page to look at.
    print(lake.failures().to_string(index=False))
    print(f"snapshot {lake.snapshot}")
    print(write_report(lake, f"{url}.report.html", cohort))


# Workers import this file: without the guard each would start a cluster of its own.
if __name__ == "__main__":
    main(*sys.argv[1:])
