"""The setting of all tests: TensorFlow as a run starts it, before any test imports keras."""

import os
import shutil
import signal
from unittest import mock

import filelock
import pytest
from helpers import NIN, drawn_figures, recorded_steps, run_main

import machine
import runs

machine.start_tensorflow()
# `pytest &` in a script ignores it, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A directory with a run of three epochs and, as state-N.npz, its state after each.

    Trained once, by the first worker of pytest-xdist that asks for it.
    """
    base = tmp_path_factory.getbasetemp()
    output = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    output.mkdir(exist_ok=True)
    with filelock.FileLock(output / "lock"):
        if not (output / f"{NIN}-3epochs-seed0").exists():
            train_three_epochs(output)
    return output


def train_three_epochs(output):
    """Train the run of `trained`."""

    def write_and_copy(run, state):
        write_state(run, state)
        shutil.copy(run.state_file, output / f"state-{len(state.history)}.npz")

    write_state = runs.write_state
    with mock.patch.object(runs, "write_state", write_and_copy):
        code, _, errors = run_main(NIN, "--epochs", 3, "--output", output)
    assert (code, errors) == (0, "")


@pytest.fixture(scope="session")
def three_epochs(trained):
    """The directory of a run of three epochs that nothing has interrupted."""
    return trained / f"{NIN}-3epochs-seed0"


@pytest.fixture
def interrupted(trained, tmp_path):
    """Return a function that makes the state of that run, interrupted after an epoch."""

    def make(epoch=1):
        run = runs.Run(NIN, 3, 0, tmp_path / f"{NIN}-3epochs-seed0")
        run.unfinished.mkdir()
        shutil.copy(trained / f"state-{epoch}.npz", run.state_file)
        return run

    return make


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in their order."""
    return drawn_figures(monkeypatch)


@pytest.fixture
def steps(monkeypatch):
    """What reaches the disk, or leaves it, in its order."""
    return recorded_steps(monkeypatch)
