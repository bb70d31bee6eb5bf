"""Functions that all packages use: arrays, geometry, files, digests, devices, text."""
