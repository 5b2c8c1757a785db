"""Not a test: starts runs as a user does, in processes of their own, and compares them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
NIN = "deep_cnn_advanced_nin"
RESULT_FILES = {"accuracy.png", "history.csv", "metrics.json", "model.keras"}


def start_small(*arguments, env=None, **options):
    """Start train_small.py; its output is read from the pipes of the process returned."""
    command = [sys.executable, TESTS / "train_small.py", *arguments]
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run_small(*arguments, **options):
    """Run train_small.py to its end: exit code, standard output, standard error."""
    process = start_small(*arguments, **options)
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def stop_after_epoch(epoch, *arguments, signal, **options):
    """Start a run and send it `signal` once `epoch` is over; as `run_small` otherwise."""
    process = start_small(*arguments, **options)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(f"Epoch {epoch}/"):
            process.send_signal(signal)
    process.wait(timeout=600)
    return process.returncode, "".join(lines), process.stderr.read()


def history_of(run_dir):
    """Return the history of a run without the seconds: the figures that can be repeated."""
    with open(run_dir / "history.csv", newline="") as file:
        return [
            {column: value for column, value in row.items() if column != "seconds"}
            for row in csv.DictReader(file)
        ]


def variables_of(run_dir):
    """Return the values of all variables of a run's model, the optimizer's included."""
    model = keras.models.load_model(run_dir / "model.keras")
    return [np.asarray(variable) for variable in model.weights + model.optimizer.variables]


def same_run(one, other):
    """Tell whether two runs have the same history and the same weights, bit for bit."""
    return history_of(one) == history_of(other) and all(
        np.array_equal(a, b) for a, b in zip(variables_of(one), variables_of(other), strict=True)
    )
