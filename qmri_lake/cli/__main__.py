"""Entry point of ``python -m qmri_lake.cli``."""

from qmri_lake.cli import entry

if __name__ == "__main__":
    entry()
