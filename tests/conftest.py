"""The setting of all tests: TensorFlow as a run starts it, before any test imports keras."""

import shutil
import signal
from unittest import mock

import pytest
from helpers import NIN, drawn_figures, run_main

import machine
import train

machine.start_tensorflow()
# `pytest &` in a script ignores it, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A directory with a run of three epochs and, as state-N.npz, its state after each."""
    output = tmp_path_factory.mktemp("trained")

    def write_and_copy(path, state):
        write_state(path, state)
        shutil.copy(path, output / f"state-{len(state.history)}.npz")

    write_state = train.write_state
    with mock.patch.object(train, "write_state", write_and_copy):
        code, _, errors = run_main(NIN, "--epochs", 3, "--output", output)
    assert (code, errors) == (0, "")
    return output


@pytest.fixture(scope="session")
def three_epochs(trained):
    """The directory of a run of three epochs that nothing has interrupted."""
    return trained / f"{NIN}-3epochs-seed0"


@pytest.fixture
def interrupted(trained, tmp_path):
    """Return a function that makes the state of that run, interrupted after an epoch."""

    def make(epoch=1):
        run = train.Run(NIN, 3, 0, tmp_path / f"{NIN}-3epochs-seed0")
        run.unfinished.mkdir()
        shutil.copy(trained / f"state-{epoch}.npz", run.state_file)
        return run

    return make


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in their order."""
    return drawn_figures(monkeypatch)
