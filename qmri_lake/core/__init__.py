"""Functions that all packages use: arrays, geometry, files, devices, text."""
