"""The answers: which family wins at how many images, where curves cross, what a prior is worth.

Pure functions from a table (family, x, replicate, error) to findings that print as sentences; numpy, scipy and pandas
only.
"""
