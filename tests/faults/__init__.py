"""Fault injection: crashes, malformed input, flipped bits, hostile directories.

`python -m tests.faults` runs all of it; `test_faults.py` runs a sample.
"""
