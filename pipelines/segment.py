"""From DESS images to masks, and from them to T2 maps in cartilage. Read top to bottom.

Usage: python pipelines/segment.py LAKE BONE_NETWORKS CARTILAGE_NETWORKS
"""

from __future__ import annotations

import sys

import qmri_lake as ql
from qmri_lake.report import write_report


def main(url: str, bones: str, cartilage: str) -> None:
    """Segment what is not segmented yet, carry the masks over, fit T2, write the report."""
    # 1. Whose knees are these? Masks that were imported stay as they are.
    lake = ql.open_lake(url)
    cohort = lake.cohort().require("dess/image")
    print(cohort)

    # One set of workers for all steps: each of them reads a network once.
    with ql.cluster("auto") as workers:
        # 2. What would be done, and how much memory would it take? Then do it.
        for step, models in (("segment_bones", bones), ("segment_cartilage", cartilage)):
            print(lake.plan(step, cohort, models=models))
            print(lake.run(step, cohort, models=models, cluster=workers))

        # 3. Do both masks look like a knee of that side? Odd ones are flagged, none is dropped.
        print(lake.run("check_masks", cohort, cluster=workers))

        # 4. Cartilage onto the multi-echo grid, and T2 there.
        both = cohort.require("msme/image")
        print(lake.run("register", both, cluster=workers))
        print(lake.run("t2", both, cluster=workers))

    # 5. What is odd or went wrong, a version to cite, and a page to look at.
    print(lake.failures().to_string(index=False))
    print(f"snapshot {lake.snapshot}")
    print(write_report(lake, f"{url}.report.html", cohort))


# Workers import this file: without the guard each would start a cluster of its own.
if __name__ == "__main__":
    main(*sys.argv[1:])
