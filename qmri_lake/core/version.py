"""The version of this package, which runs and model cards record."""

__version__ = "0.2.0"
