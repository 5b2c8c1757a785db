"""Not a test: starts runs on few images, in this process or in one of their own, and compares."""

import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np

import train
from data import load_mnist

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
POSIX = os.name == "posix"
NIN = "deep_cnn_advanced_nin"
RESULT_FILES = {
    "accuracy.png",
    "errors.png",
    "history.csv",
    "metrics.json",
    "model.keras",
    "predictions.csv",
}


def load_few():
    """Return the first 625 training images, for ten batches an epoch, and 200 test images."""
    (X_train, y_train), (X_test, y_test) = load_mnist()
    return (X_train[:625], y_train[:625]), (X_test[:200], y_test[:200])


def run_main(*arguments):
    """Run train.main on few images: exit code, standard output, standard error."""
    code, output, errors = 0, io.StringIO(), io.StringIO()
    with (
        mock.patch.object(train, "load_mnist", load_few),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            train.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):  # as Python does it at its end
                print(code, file=errors)
                code = 1
    return code, output.getvalue(), errors.getvalue()


def environment(**more):
    """Return this process's environment without what sets Keras, TensorFlow, oneDNN or Python."""
    foreign = "KERAS_", "TF_", "ONEDNN_", "DNNL_", "PYTHON"
    own = {name: os.environ[name] for name in os.environ if not name.startswith(foreign)}
    # Windows' Python under Wine finds its packages there.
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return own | kept | more


def python_path(*directories):
    """Return a PYTHONPATH of these directories and those of this process."""
    return os.pathsep.join(map(str, (*directories, os.environ.get("PYTHONPATH", ""))))


def start(script, *arguments, env=None, **options):
    """Start a script of the project; its output is read from the pipes of the process returned."""
    command = [sys.executable, PROJECT / script, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [str(part) for part in command],
        env=environment(**(env or {})),
        **{"text": True, "errors": "replace"} | pipes | options,
    )


def run(script, *arguments, **options):
    """Run a script of the project to its end: exit code, standard output, standard error."""
    process = start(script, *arguments, **options)
    output, errors = process.communicate()
    return process.returncode, output, errors


def killed(process):
    """Tell whether a process ended by `kill`."""
    return process.returncode == (-signal.SIGKILL if POSIX else 1)


def history_of(run_dir):
    """Return the history of a run without the seconds: the figures that can be repeated."""
    with open(run_dir / "history.csv", newline="") as file:
        return [
            {column: value for column, value in row.items() if column != "seconds"}
            for row in csv.DictReader(file)
        ]


def variables_of(run_dir):
    """Return the values of all variables of a run's model, the optimizer's included."""
    import keras

    model = keras.models.load_model(run_dir / "model.keras")
    return [variable.value.numpy() for variable in model.weights + model.optimizer.variables]


def same_run(one, other):
    """Tell whether two runs have the same history and the same weights, bit for bit."""
    return history_of(one) == history_of(other) and all(
        np.array_equal(a, b) for a, b in zip(variables_of(one), variables_of(other), strict=True)
    )
