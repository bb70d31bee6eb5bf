"""From a delivery of the OAI to a lake with T2 maps and a report. Read top to bottom.

Usage: python pipelines/ingest.py SOURCE LAKE [MASKS]
"""

from __future__ import annotations

import sys

import qmri_lake as ql
from qmri_lake.report import write_report


def main(source: str, url: str, masks: str | None = None) -> None:
    """Ingest, compute T2, write the report beside the lake."""
    # 1. Series and clinical tables into the lake. Only what is new is added.
    result = ql.ingest(source, url, masks=masks, profile="oai", cluster="auto")
    print(result)
    if result.problems:
        result.table().to_csv(f"{url}.problems.csv", index=False)
    lake = result.lake

    # 2. Whose knees are these?
    cohort = lake.cohort().require("msme/image")
    print(cohort)

    # 3. T2: in cartilage where there are masks, else everywhere.
    within = "cartilage" if masks else "all"
    run = lake.run("t2", cohort, within=within, cluster="auto")
    print(run)
    if run.failed:
        print(lake.failures("t2"))

    # 4. A version to cite, and a page to look at.
    print(f"snapshot {lake.snapshot}")
    print(write_report(lake, f"{url}.report.html", cohort))


# Workers import this file: without the guard each would start a cluster of its own.
if __name__ == "__main__":
    main(*sys.argv[1:])
