"""Side methods are tested with the small models and helpers of the rooms that they extend."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / room) for room in ("adapters", "engine", "classifier")]

from tests.classifier.conftest import bert, folder, llama
from tests.engine.conftest import backbone, decoder, encoder

__all__ = ["backbone", "bert", "decoder", "encoder", "folder", "llama"]
