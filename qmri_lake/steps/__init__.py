"""Steps of the package. Each step has variables, a function of one exam, and a lazy function."""
