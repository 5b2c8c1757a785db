"""Not a test: train.py as it is, on the first images of the real data.

With HOLD in the environment it sleeps when an epoch is over and its state is saved, until it is
killed: a test need not be faster than an epoch.
"""

import os
import runpy
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from helpers import load_few  # noqa: E402

import data  # noqa: E402

data.load_mnist = load_few
if "HOLD" in os.environ:
    import runs

    def write_and_hold(run, state):
        """Write the state; after an epoch, never end."""
        write_state(run, state)
        if state.history:
            print("held", flush=True)
            time.sleep(3600)

    write_state, runs.write_state = runs.write_state, write_and_hold
runpy.run_path(str(PROJECT / "train.py"), run_name="__main__")
