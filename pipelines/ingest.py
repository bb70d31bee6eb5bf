"""Ingest a delivery of the OAI into a lake, compute T2 maps, and write a report.

Usage: python pipelines/ingest.py SOURCE LAKE [MASKS]
"""

from __future__ import annotations

import sys

import qmri_lake as ql
from qmri_lake.report import write_report


def main(source: str, url: str, masks: str | None = None) -> None:
    """Ingest the delivery, compute T2, and write the report next to the lake."""
    # 1. Read series and clinical tables into the lake. Series that the lake has are not read again.
    result = ql.ingest(source, url, masks=masks, profile="oai", cluster="auto")
    print(result)
    if result.problems:
        result.table().to_csv(f"{url}.problems.csv", index=False)
    lake = result.lake

    # 2. Select the exams.
    cohort = lake.cohort().require("msme/image")
    print(cohort)

    # 3. Fit T2: in cartilage if masks were given, otherwise in all voxels.
    within = "cartilage" if masks else "all"
    run = lake.run("t2", cohort, within=within, cluster="auto")
    print(run)
    if run.failed:
        print(lake.failures("t2"))

    # 4. Print the snapshot to cite, and write a report.
    print(f"snapshot {lake.snapshot}")
    print(write_report(lake, f"{url}.report.html", cohort))


# Workers import this file: without this guard, each would start another cluster.
if __name__ == "__main__":
    main(*sys.argv[1:])
