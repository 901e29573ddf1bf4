"""Files on disk: outputs that are whole or absent, directories of ours, the cache."""
