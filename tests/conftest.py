"""The setting of all tests; importing models first keeps the user's keras.json out."""

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import pytest
from runs import NIN, run_small

import models  # noqa: F401  before any test imports keras


@pytest.fixture(scope="session")
def three_epochs(tmp_path_factory):
    """The directory of a run of three epochs that nothing has interrupted."""
    output = tmp_path_factory.mktemp("three_epochs")
    code, _, errors = run_small(NIN, "--epochs", 3, "--output", output)
    assert (code, errors) == (0, "")
    return output / f"{NIN}-3epochs-seed0"
