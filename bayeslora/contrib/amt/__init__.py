"""AMT: `adapter.py` has options, pool and merge, `episodes.py` the tuning."""
