"""Not a test: what several tests use, to start runs, to make them up and to look at them."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import train
from data import load_mnist, shuffled_batches

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


posix = pytest.mark.skipif(not POSIX, reason="Windows has no pseudo-terminals, signals and limits")


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def load_few():
    """Return the first 625 training images, for ten batches an epoch, and 200 test images."""
    (X_train, y_train), (X_test, y_test) = load_mnist()
    return (X_train[:625], y_train[:625]), (X_test[:200], y_test[:200])


def run_main(*arguments, try_out=lambda *run: None):
    """Run train.main on few images: exit code, standard output, standard error.

    The networks are not tried out before, which takes longer than a small epoch, unless
    `try_out` is train.try_out.
    """
    code, output, errors = 0, io.StringIO(), io.StringIO()
    with (
        mock.patch.object(train, "load_mnist", load_few),
        mock.patch.object(train, "try_out", try_out),
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


def go_on(run):
    """Give the command of `run`, a `runs.Run`, again: as `run_main`."""
    return run_main(
        run.model, "--epochs", run.epochs, "--seed", run.seed, "--output", run.directory.parent
    )


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


def assert_complete(run, three_epochs):
    """Assert that a run has come to its end, and is that in the directory `three_epochs`."""
    assert {path.name for path in run.directory.iterdir()} == RESULT_FILES
    assert not run.unfinished.exists()
    assert same_run(run.directory, three_epochs)


def recorded_steps(monkeypatch):
    """Return a list that will hold what reaches the disk, or leaves it, in its order."""
    steps, names = [], {}

    def record(module, name, step):
        function = getattr(module, name)

        def recorded(*arguments, **options):
            steps.append(step(*arguments))
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, recorded)

    open_descriptor = os.open

    def open_and_name(path, *arguments, **options):
        descriptor = open_descriptor(path, *arguments, **options)
        names[descriptor] = Path(path).name
        return descriptor

    monkeypatch.setattr(os, "open", open_and_name)
    record(os, "fsync", lambda descriptor: f"sync {names[descriptor]}")
    record(os, "replace", lambda old, new: f"replace {new.name}")
    record(shutil, "rmtree", lambda path, *_: f"remove {path.name}")
    return steps


def synced(directory):
    """Return what syncing a directory leaves in the steps: Windows can not."""
    return [f"sync {directory.name}"] if POSIX else []


def orders(n, seed, epochs):
    """Return the order of n samples in each of the epochs."""
    indices = np.arange(n)
    batches = list(shuffled_batches(indices, indices, seed, epochs))
    sizes = [min(50, n - start) for start in range(0, n, 50)]
    assert [len(X) for X, _ in batches] == sizes * len(epochs)
    for X, y in batches:
        assert np.array_equal(X, y)
    return np.concatenate([X for X, _ in batches]).reshape(len(epochs), n).tolist()


def write_run(run_dir, accuracy, val_accuracy, **more_metrics):
    """Make up the files of a run but for its model; of its test images, the first are wrong.

    Args:
        run_dir: the `Path` of the directory, which need not be there.
        accuracy: the training accuracies, one for each epoch.
        val_accuracy: the same of validation.
        more_metrics: what `metrics.json` shall have besides, or instead.

    Returns:
        `run_dir`.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    metrics = {
        "model": "deep_cnn_advanced",
        "seed": 0,
        "epochs": len(accuracy),
        "test_images": 10_000,
        "test_accuracy": 0.9995,
        "authors_test_accuracy": 0.9942,
        "devices": ["A processor, 2 cores"],
    } | more_metrics
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    wrong = round(10_000 * (1 - metrics["test_accuracy"]))
    rows = [f"{image},7,{'2,0.1' if image < wrong else '7,1.0'}" for image in range(10_000)]
    rows.insert(0, "image,label,prediction,probability")
    (run_dir / "predictions.csv").write_text("\n".join(rows) + "\n")
    rows = [
        f"{epoch},{a},0.1,{v},0.1,1.0"
        for epoch, (a, v) in enumerate(zip(accuracy, val_accuracy, strict=True), start=1)
    ]
    header = "epoch,accuracy,loss,val_accuracy,val_loss,seconds"
    (run_dir / "history.csv").write_text("\n".join([header, *rows]) + "\n")
    return run_dir


def long_run(run_dir):
    """Make up the files of a run of 100 epochs, whose accuracies rise."""
    epochs = np.arange(1, 101)
    return write_run(run_dir, 0.999 - 0.1 / epochs, 0.993 - 0.03 / epochs)


def picture(directory, name="accuracy.png"):
    """Return the plot as an array (height, width, 3) of colors from 0 to 1."""
    import matplotlib.image

    assert (directory / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(directory / name)[..., :3]


def drawn_figures(monkeypatch):
    """Return a list that will hold the figures that are drawn."""
    from matplotlib.figure import Figure

    figures = []
    savefig = Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures
