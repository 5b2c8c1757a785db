"""The command line from end to end, and that a run follows from its seed alone."""

import errno
import hashlib
import importlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import keras
import matplotlib
import numpy as np
import post
import pytest
import tensorflow as tf
from helpers import (
    NIN,
    POSIX,
    PROJECT,
    RESULT_FILES,
    environment,
    history_of,
    load_few,
    orders,
    run,
    run_main,
)

import machine
import models
import plot
import runs
import train


def small():
    """A network of one layer, which trains fast."""
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
    layers.append(keras.layers.Dense(10, activation="softmax"))
    return models.compiled(keras.Sequential(layers))


# From end to end, in processes of their own


def test_both_models_by_default(tmp_path, three_epochs):
    command = "tests/train_small.py", "--epochs", 2, "--output", "here"
    notebook = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    code, output, errors = run(*command, cwd=tmp_path, env=notebook)  # from any directory
    assert (code, errors) == (0, "")
    first, *where = output.splitlines()[:3]
    assert first == f"Device: {machine.device()}"
    assert where == [
        f"{name}: accuracy so far, after every epoch: "
        + str(Path(f"here/{name}-2epochs-seed0.unfinished/accuracy.png"))
        for name in train.POST_MODELS
    ]
    assert output.count("(625, 28, 28, 1) (200, 28, 28, 1) (625, 10) (200, 10)") == 2
    assert "Total params: 137,510" in output and "Total params: 87,135" in output
    epochs = [line for line in output.splitlines() if line.startswith("Epoch")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2", "1/2", "2/2"]
    seconds = [int(re.search(r"val_loss: \S+ - (\d+) s", line)[1]) for line in epochs]
    left = [re.search(r"time left: about 0:(\d\d):(\d\d)$", line) for line in epochs]
    left = [match and 60 * int(match[1]) + int(match[2]) for match in left]
    assert left[3] is None
    assert left[0] == pytest.approx(3 * seconds[0], abs=2)  # of both models
    assert left[2] == pytest.approx(seconds[2], abs=1)

    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        f"{name}-2epochs-seed0" for name in train.POST_MODELS
    }
    for name in train.POST_MODELS:
        parameters = post.PARAMETERS[name][0]
        run_dir = tmp_path / "here" / f"{name}-2epochs-seed0"
        assert {path.name for path in run_dir.iterdir()} == RESULT_FILES
        header, *rows = (run_dir / "history.csv").read_text().splitlines()
        assert header == "epoch,accuracy,loss,val_accuracy,val_loss,seconds"
        assert [row.split(",")[0] for row in rows] == ["1", "2"]

        metrics = json.loads((run_dir / "metrics.json").read_text())
        assert metrics["model"] == name
        assert (metrics["parameters"], metrics["epochs"], metrics["seed"]) == (parameters, 2, 0)
        assert metrics["authors_test_accuracy"] == post.TEST_ACCURACY[name]
        assert metrics["environment"] == {"TF_ENABLE_ONEDNN_OPTS": "1"}
        assert metrics["code_sha256"] == [
            {
                name: hashlib.sha256((PROJECT / name).read_bytes()).hexdigest()
                for name in ("models.py", "data.py", "train.py", "runs.py", "machine.py")
            }
        ]
        assert metrics["batch_size"] == post.BATCH_SIZE
        assert metrics["validation_split"] == post.VALIDATION_SPLIT
        assert metrics["python"] == platform.python_version()
        for package in ("tensorflow", "keras", "numpy"):
            assert metrics[package] == version(package)
        assert metrics["devices"] == [machine.device()]
        assert metrics["interrupted_after_epochs"] == []
        accuracy = f"{metrics['test_accuracy']:.4f} (the author's: {post.TEST_ACCURACY[name]:.4f})"
        assert f"Test accuracy: {accuracy}" in output

    # The saved model is the trained one: it gives what was reported.
    _, (X_test, y_test) = load_few()
    model = keras.models.load_model(run_dir / "model.keras")
    loss, accuracy = model.evaluate(X_test, y_test, verbose=0)
    assert accuracy == pytest.approx(metrics["test_accuracy"], abs=1e-6)
    assert loss == pytest.approx(metrics["test_loss"], rel=1e-3)
    assert metrics["test_images"] == 200
    labels, predictions = runs.read_predictions(run_dir)
    assert np.array_equal(labels, y_test.argmax(axis=1))
    found = model.predict(X_test, verbose=0)
    assert np.array_equal(predictions, found.argmax(axis=1))
    table = runs.read_table(run_dir / "predictions.csv", 200)
    assert table["probability"] == pytest.approx(found[np.arange(200), labels], rel=1e-3)

    # A model is the same whichever was trained before it, and in whatever process.
    assert history_of(run_dir) == history_of(three_epochs)[:2]


def test_a_network_of_ones_own_is_trained_by_its_name(tmp_path, monkeypatch, figures):
    monkeypatch.setitem(models.MODELS, "my_cnn", small)
    code, output, errors = run_main("my_cnn", "--epochs", 1, "--output", tmp_path)
    assert (code, errors) == (0, "")
    metrics, history = runs.read_run(tmp_path / "my_cnn-1epochs-seed0")
    assert f"Test accuracy: {metrics['test_accuracy']:.4f}\n" in output  # and no author's
    assert "authors_test_accuracy" not in metrics and len(history["epoch"]) == 1
    titles = [figure.get_suptitle() for figure in figures]
    assert titles[:2] == ["my_cnn, 1 epoch, seed 0"] * 2  # after the epoch, and of the results
    labels = {line.get_label() for figure in figures for axes in figure.axes for line in axes.lines}
    assert labels == {"training", "validation"}


def test_the_plain_network_is_trained_on_demand_and_rules_are_part_of_a_run(tmp_path, figures):
    command = "deep_cnn", "--epochs", 1, "--output", tmp_path
    code, output, errors = run_main(*command, "--rules", "2017")
    assert (code, errors) == (0, "")
    assert "Total params: 136,310" in output and "(the author's: 0.9368)" in output
    metrics, _ = runs.read_run(tmp_path / "deep_cnn-2017-1epochs-seed0")
    assert metrics["authors_test_accuracy"] == post.TEST_ACCURACY["deep_cnn"]
    assert metrics["rules"] == "2017"
    assert figures[-1].get_suptitle().startswith("deep_cnn by the rules of 2017, 1 epoch, seed 0")
    digests = []
    for rules in models.RULES:
        arguments = [*map(str, command), "--rules", rules]
        (this,) = train.parse_arguments(arguments)
        suffix = "" if rules == "today" else f"-{rules}"
        assert this.directory == tmp_path / f"deep_cnn{suffix}-1epochs-seed0"
        digests.append(runs.digest_of(train.build(this)))
    assert digests[1] == metrics["network_sha256"] and len(set(digests)) == 4


def test_the_accuracy_so_far_is_drawn_after_every_epoch(tmp_path, monkeypatch, figures):
    this = runs.Run("small", 2, 0, tmp_path / "small-2epochs-seed0")
    drawn = []
    write_state = runs.write_state

    def note(run, state):
        write_state(run, state)
        drawn.append(this.picture.exists() and this.picture.read_bytes()[:4])

    monkeypatch.setattr(runs, "write_state", note)
    monkeypatch.setitem(models.MODELS, "small", small)
    assert run_main("small", "--epochs", 2, "--output", tmp_path)[0] == 0
    assert drawn == [False, False, b"\x89PNG"]  # at the start, and before each epoch's picture
    titles = [figure.get_suptitle() for figure in figures[:2]]
    assert titles == ["small, 2 epochs, seed 0: after epoch 1", "small, 2 epochs, seed 0"]


def test_pictures_that_cannot_be_drawn_end_no_run(tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no letters")

    for name in ("draw_accuracy", "plot_accuracy", "plot_errors"):
        monkeypatch.setattr(plot, name, fail)
    monkeypatch.setitem(models.MODELS, "small", small)
    code, output, errors = run_main("small", "--epochs", 1, "--output", tmp_path)
    this = runs.Run("small", 1, 0, tmp_path / "small-1epochs-seed0")
    assert (code, errors) == (0, "") and f"Results: {this.directory}\n" in output
    for path in (this.picture, this.unfinished / "results"):
        assert f"cannot draw {path}: no letters\n" in output
    assert {path.name for path in this.directory.iterdir()} == {
        name for name in RESULT_FILES if not name.endswith(".png")
    }


def test_the_time_left_follows_from_the_last_five_epochs(capsys):
    run = runs.Run("any", 10, 0, Path())
    history = [{"epoch": i, "seconds": 100.0 if i < 4 else i} for i in range(1, 9)]
    train.show_progress(run, history, epochs_after=1)
    assert capsys.readouterr().out == "Epoch 8/10 - 8 s - time left: about 0:00:18\n"


# The command line


WRONG_ARGUMENTS = {
    "unknown model": (["lenet"], ["'lenet'", *post.SUMMARY]),
    "no epochs": (["--epochs", "0"], ["--epochs goes from 1 to 1000000"]),
    "negative epochs": (["--epochs", "-1"], ["-1"]),
    "no number": (["--epochs", "ten"], ["'ten'"]),
    "negative seed": (["--seed", "-1"], ["--seed goes from 0 to 4294967295"]),
    "huge seed": (["--seed", str(2**32)], [str(2**32)]),
    "unknown option": (["--batch-size=32"], ["--batch-size=32"]),
    "unknown option before what looks like a model": (
        ["--batch-size", "20"],
        ["unrecognized arguments: --batch-size\n"],
    ),
    "unknown rules": (["--rules", "2016"], ["'2016'", "today, 2017, 2017-loss, 2017-epsilon"]),
    # Windows has words of its own for the reason, in the user's language.
    "output is a file": (
        ["--output", __file__],
        [f"cannot write to {__file__}: ", os.strerror(errno.EEXIST) if POSIX else ""],
    ),
    "output below a file": (["--output", f"{__file__}/a/b"], [f"{Path(__file__, 'a/b')}: "]),
}


@pytest.mark.parametrize("name", ["cnn/v2", "n" * 250, "나" * 80])
def test_a_name_that_no_directory_can_have_is_a_wrong_argument(name, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, name, small)
    code, output, errors = run_main(name, "--output", tmp_path / "new")
    assert (code, output, errors.count("train.py: error: ")) == (2, "", 1)
    assert f"{name!r} cannot be part of the name of a directory" in errors
    assert not (tmp_path / "new").exists()


def test_a_wrong_argument_leaves_no_directory(tmp_path):
    assert run_main("lenet", "--output", tmp_path / "new")[0] == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_wrong_arguments_get_the_usage_and_one_line_and_exit_code_2(case):
    arguments, parts = WRONG_ARGUMENTS[case]
    code, output, errors = run_main(*arguments)
    assert (code, output) == (2, "")
    usage, line = errors.split("train.py: error: ")
    assert usage.startswith("usage: train.py") and line.count("\n") == 1
    for part in parts:
        assert part in line


@pytest.mark.skipif(not POSIX, reason="Windows has no modes of directories")
@pytest.mark.skipif(POSIX and os.geteuid() == 0, reason="root may write everywhere")
def test_output_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    code, _, errors = run_main("--output", tmp_path)
    assert code == 2 and "Permission denied" in errors


def test_defaults_are_the_posts_run():
    runs = train.parse_arguments([])
    assert [(run.model, run.epochs, run.seed) for run in runs] == [
        (name, post.EPOCHS, 0) for name in train.POST_MODELS
    ]
    assert [run.directory for run in runs] == [
        Path(f"results/{name}-100epochs-seed0") for name in train.POST_MODELS
    ]


def test_a_model_named_twice_is_one_run(tmp_path):
    assert len(train.parse_arguments([NIN, NIN, "--output", str(tmp_path)])) == 1


def test_answers_without_tensorflow():
    """And what a run leaves is read without them, and drawn without TensorFlow."""
    for module, known in (("train", "'matplotlib'"), ("runs", "'matplotlib'"), ("plot", "None")):
        loaded = (
            f"import sys, {module}; print({{'keras', 'tensorflow', {known}}} & set(sys.modules))"
        )
        command = [sys.executable, "-c", loaded]
        done = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE)
        assert done.stdout.split() == [b"set()"]
    command = [sys.executable, "-OO", PROJECT / "train.py", "--help"]  # without docstrings
    env = environment(PYTHONSAFEPATH="1")  # nor does Python look for modules beside the program
    done = subprocess.run(command, check=True, env=env, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith("usage: train.py")


@pytest.mark.parametrize("module", ["data", "machine", "models", "plot", "runs", "train"])
def test_importing_changes_nothing(module, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", "/nowhere")
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "7")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")

    def process():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        settings = keras.config.backend(), keras.config.floatx(), keras.config.epsilon()
        return dict(os.environ), handlers, settings, dict(matplotlib.rcParams), sys.stdout

    before = process()
    monkeypatch.setitem(sys.modules, module, None)  # put back afterwards
    del sys.modules[module]
    importlib.import_module(module)
    assert process() == before


def test_broken_dataset_ends_a_run_with_one_line(tmp_path, monkeypatch):
    def broken():
        raise machine.RunError("mnist.npz is truncated")

    monkeypatch.setattr("helpers.load_few", broken)
    assert run_main("--output", tmp_path) == (1, "", "train.py: mnist.npz is truncated\n")


# The training


def test_weights_dropout_and_order_follow_from_the_seed(tmp_path, monkeypatch):
    def values(seed):
        model = train.build(runs.Run(NIN, 1, seed, tmp_path))
        return [variable.value.numpy() for variable in model.variables]

    one, same, other = values(1), values(1), values(2**32 - 1)
    random = [i for i, value in enumerate(one) if len(np.unique(value)) > 1]
    assert len(random) == 13 + 1  # convolutions and dense layers, and the dropout's generator
    for i, (a, b, c) in enumerate(zip(one, same, other, strict=True)):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c) == (i not in random)

    found = []
    monkeypatch.setattr(train, "fit", lambda *arguments: found.append(arguments[3:5]))
    monkeypatch.setattr(train, "save", lambda *arguments: None)
    run_main(NIN, "--epochs", 7, "--seed", 5, "--output", tmp_path)
    assert found == [(range(7), 5)]


def fit_spied_on(model, n, epochs, seed):
    """Fit on the numbers 0 to n - 1; return the lines of the history."""
    rows = []
    samples = np.arange(n)[:, np.newaxis]
    train.fit(model, samples, samples, epochs, seed, rows.append)
    return rows


def test_fit_trains_in_these_orders_and_validates_on_the_last_fifth():
    trained, validated = [], []

    class Spy(keras.Sequential):
        def train_step(self, data):
            tf.py_function(lambda x: trained.extend(x.numpy().ravel()), [data[0]], [])
            return super().train_step(data)

        def test_step(self, data):
            tf.py_function(lambda x: validated.extend(x.numpy().ravel()), [data[0]], [])
            return super().test_step(data)

    model = Spy([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["accuracy"], run_eagerly=True)
    rows = fit_spied_on(model, 100, range(1, 4), seed=7)
    assert [row["epoch"] for row in rows] == [2, 3, 4]
    assert np.reshape(trained, (3, 80)).tolist() == orders(80, 7, range(1, 4))
    assert np.reshape(validated, (3, 20)).tolist() == [list(range(80, 100))] * 3


@pytest.mark.parametrize(("n", "batches"), [(60_000, 10), (1250, 10), (750, 2), (438, 1)])
def test_batches_for_each_call_into_tensorflow(n, batches, monkeypatch):
    """Ten of them, but for epochs whose number of batches ten does not divide."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    monkeypatch.setattr(model, "fit", lambda *data, **options: None)
    assert fit_spied_on(model, n, range(1), seed=0) == []
    assert model.steps_per_execution == batches
