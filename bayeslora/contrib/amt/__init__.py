"""AMT: `adapter.py` has options and merge, `pool.py` the members and their tuning."""
