"""Not a test: train.py as it is, on the first images of the real data."""

import runpy
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from helpers import load_few  # noqa: E402

import data  # noqa: E402

data.load_mnist = load_few
runpy.run_path(str(PROJECT / "train.py"), run_name="__main__")
