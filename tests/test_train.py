"""The command line from end to end, and that a run follows from its seed alone."""

import json
import os
import platform
import pty
import re
import subprocess
import sys
from importlib.metadata import version

import keras
import numpy as np
import post
import pytest
import tensorflow as tf
from runs import NIN, PROJECT, RESULT_FILES, history_of, run_small, same_run, start_small

import train

# The command line


def test_both_models_by_default(tmp_path):
    code, output, errors = run_small("--epochs", 2, "--output", tmp_path)
    assert (code, errors) == (0, "")
    assert output.count("(500, 28, 28, 1) (200, 28, 28, 1) (500, 10) (200, 10)") == 2
    assert "Total params: 137,510" in output and "Total params: 87,135" in output
    epochs = [line for line in output.splitlines() if line.startswith("Epoch")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2", "1/2", "2/2"]
    left = [re.search(r"time left: about (\d+):(\d\d):(\d\d)$", line) for line in epochs]
    assert [bool(match) for match in left] == [True, True, True, False]

    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}-2epochs-seed0" for name in post.SUMMARY
    }
    for name, (parameters, _, _) in post.PARAMETERS.items():
        run_dir = tmp_path / f"{name}-2epochs-seed0"
        assert {path.name for path in run_dir.iterdir()} == RESULT_FILES
        header, *rows = (run_dir / "history.csv").read_text().splitlines()
        assert header == "epoch,accuracy,loss,val_accuracy,val_loss,seconds"
        assert [row.split(",")[0] for row in rows] == ["1", "2"]

        metrics = json.loads((run_dir / "metrics.json").read_text())
        assert metrics["model"] == name
        assert (metrics["parameters"], metrics["epochs"], metrics["seed"]) == (parameters, 2, 0)
        assert metrics["post_test_accuracy"] == post.TEST_ACCURACY[name]
        assert metrics["python"] == platform.python_version()
        for package in ("tensorflow", "keras", "numpy"):
            assert metrics[package] == version(package)
        assert metrics["processor"] == train.processor()
        seconds = np.mean([float(row.split(",")[-1]) for row in rows])
        assert metrics["seconds_per_epoch"] == pytest.approx(seconds, abs=0.002)
        assert metrics["images_per_second"] == pytest.approx(400 / seconds, rel=0.01)
        accuracy = f"{metrics['test_accuracy']:.4f} (in the post: {post.TEST_ACCURACY[name]:.4f})"
        assert f"Test accuracy: {accuracy}" in output

        # The saved model is the trained one: it gives the accuracy that was reported.
        (_, _), (X_test, y_test) = train.load_mnist()
        model = keras.models.load_model(run_dir / "model.keras")
        loss, accuracy = model.evaluate(X_test[:200], y_test[:200], verbose=0)
        assert accuracy == pytest.approx(metrics["test_accuracy"], abs=1e-6)
        assert loss == pytest.approx(metrics["test_loss"], rel=1e-3)

    # A model is the same whichever was trained before it.
    code, _, _ = run_small(NIN, "--epochs", 2, "--output", tmp_path / "alone")
    run_dir = f"{NIN}-2epochs-seed0"
    assert same_run(tmp_path / "alone" / run_dir, tmp_path / run_dir)


def test_bar_and_time_left_in_a_terminal(tmp_path):
    terminal, theirs = pty.openpty()
    command = [sys.executable, PROJECT / "tests/train_small.py", NIN, "--epochs", "2"]
    with subprocess.Popen(
        [*command, "--output", tmp_path], stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(terminal, 4096):
                shown += part
        except OSError:  # how Linux tells that the other side has closed
            pass
        assert (process.wait(), process.stderr.read()) == (0, b"")
    os.close(terminal)
    # After the first epoch's complete bar, on a line of its own.
    assert re.search(rb"Epoch 1/2\r\n.*8/8.*val_loss: \S+\r\ntime left: about", shown, re.DOTALL)
    assert b"Epoch 2/2" in shown


WRONG_ARGUMENTS = {
    "unknown model": (["lenet"], ["'lenet'", *post.SUMMARY]),
    "no epochs": (["--epochs", "0"], ["'0'"]),
    "negative epochs": (["--epochs", "-1"], ["'-1'"]),
    "no number": (["--epochs", "ten"], ["'ten'"]),
    "negative seed": (["--seed", "-1"], ["'-1'"]),
    "huge seed": (["--seed", str(2**32)], [str(2**32)]),
    "unknown option": (["--batch-size=32"], ["--batch-size=32"]),
    "output is a file": (["--output", __file__], [__file__, "Not a directory"]),
    "output below a file": (["--output", f"{__file__}/a/b"], ["Not a directory"]),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_wrong_arguments_get_one_line_and_exit_code_2(case):
    arguments, parts = WRONG_ARGUMENTS[case]
    code, output, errors = run_small(*arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("train.py: error: ") and errors.count("\n") == 1
    for part in parts:
        assert part in errors


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    code, _, errors = run_small("--output", tmp_path)
    assert (code, errors.count("\n")) == (2, 1)
    assert "Permission denied" in errors


def test_answers_without_tensorflow():
    modules = "import sys, train; print({'keras', 'tensorflow', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", modules], cwd=PROJECT, capture_output=True)
    assert done.stdout == b"set()\n"
    done = subprocess.run([sys.executable, "train.py", "--help"], cwd=PROJECT, capture_output=True)
    assert done.returncode == 0 and b"usage: train.py" in done.stdout


def test_broken_dataset_ends_a_run_with_one_line(tmp_path):
    for module in ("train.py", "data.py"):
        (tmp_path / module).symlink_to(PROJECT / module)
    (tmp_path / "mnist.npz").write_bytes(b"")
    code = f"import data, train, pathlib; data.MNIST_FILE = pathlib.Path({str(tmp_path)!r},"
    code += " 'mnist.npz'); train.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--output", tmp_path], cwd=PROJECT, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert b"mnist.npz is truncated" in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_processor_counts_the_cores_that_may_be_used():
    code = "import os, train; os.sched_setaffinity(0, {0}); print(train.processor())"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True)
    assert done.stdout.endswith(b", 1 cores\n") and done.stdout[:1].isalnum()


# The same seed gives the same run, another seed another


def test_same_seed_gives_the_same_run_whatever_the_users_keras_settings(three_epochs, tmp_path):
    (tmp_path / ".keras").mkdir()
    settings = {
        "backend": "jax",
        "image_data_format": "channels_first",
        "floatx": "float16",
        "epsilon": 0.1,
    }
    (tmp_path / ".keras/keras.json").write_text(json.dumps(settings))
    env = {"HOME": str(tmp_path), "KERAS_BACKEND": "torch", "KERAS_MAX_EPOCHS": "1"}
    code, _, errors = run_small(NIN, "--epochs", 3, "--output", tmp_path, env=env)
    assert (code, errors) == (0, "")
    assert same_run(three_epochs, tmp_path / three_epochs.name)


def test_another_seed_gives_another_run(three_epochs, tmp_path):
    code, _, _ = run_small(NIN, "--epochs", 3, "--seed", 2**32 - 1, "--output", tmp_path)
    assert code == 0
    other = history_of(tmp_path / f"{NIN}-3epochs-seed4294967295")
    for row, other_row in zip(history_of(three_epochs), other, strict=True):
        assert row["loss"] != other_row["loss"]


# A new order in every epoch


def orders(n, seed, epochs):
    """Return the order of n samples in each of the epochs."""
    indices = np.arange(n)
    batches = list(train.shuffled_batches(indices, indices, seed, epochs))
    sizes = [min(50, n - start) for start in range(0, n, 50)]
    assert [len(X) for X, _ in batches] == sizes * len(epochs)
    for X, y in batches:
        assert np.array_equal(X, y)
    return np.concatenate([X for X, _ in batches]).reshape(len(epochs), n).tolist()


def test_every_epoch_has_a_new_order_of_all_samples():
    found = orders(120, 0, range(5))
    for order in found:
        assert sorted(order) == list(range(120))
    assert len({tuple(order) for order in [*found, range(120)]}) == 6


def test_order_follows_from_seed_and_epoch_alone():
    found = orders(120, 0, range(5))
    assert found == orders(120, 0, range(5))
    assert found[3:] == orders(120, 0, range(3, 5))


def test_no_two_pairs_of_seed_and_epoch_share_an_order():
    seeds = [0, 1, 2, 3, 2**31, 2**32 - 1]
    found = [tuple(order) for seed in seeds for order in orders(60, seed, range(4))]
    assert len(set(found)) == len(seeds) * 4


def test_images_stay_uint8():
    images = np.zeros((60, 28, 28, 1), np.uint8)
    labels = np.zeros((60, 10), np.float32)
    train_spec = train.shuffled_batches(images, labels, 0, range(1)).element_spec
    for spec in (train_spec, train.batches(images, labels).element_spec):
        assert [part.dtype for part in spec] == [tf.uint8, tf.float32]


def test_fit_trains_in_these_orders_and_validates_on_the_last_fifth(tmp_path):
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
    samples = np.arange(100)[:, np.newaxis]
    settings = {"seed": 7}
    history = train.fit(model, samples, samples, 3, settings, ([], []), tmp_path / "state.npz", 0)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert np.reshape(trained, (3, 80)).tolist() == orders(80, 7, range(3))
    assert np.reshape(validated, (3, 20)).tolist() == [list(range(80, 100))] * 3


def test_a_run_can_be_started_from_any_directory(tmp_path):
    process = start_small(NIN, "--epochs", 1, "--output", "here", cwd=tmp_path)
    process.communicate()
    assert (process.returncode, (tmp_path / "here").is_dir()) == (0, True)
