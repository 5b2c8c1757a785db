"""The script that trains in Keras 2.0.8: its networks, and what it does without that Keras.

check_train_2017.py tells the rest, by hand, in Keras 2.0.8 itself.
"""

import os
import sys
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import post
import pytest
from helpers import POSIX

import machine
import plot
import train
from models import MODELS

if POSIX:
    import train_2017
else:
    pytest.skip("train_2017.py is not for Windows: its lock is fcntl's", allow_module_level=True)

NAME = "deep_cnn_advanced"


# The networks


@pytest.mark.parametrize("name", post.SUMMARY)
def test_layers_are_the_authors(name):
    layers = train_2017.network(name).layers
    rows = [
        (type(layer).__name__, layer.output.shape[1:], layer.count_params()) for layer in layers
    ]
    assert rows == post.SUMMARY[name]
    for layer, today in zip(layers, MODELS[name]().layers, strict=True):
        assert layer.get_config() | {"name": today.name} == today.get_config()


@pytest.mark.parametrize("adam_class", ["Adam", "WaitingAdam"])
@pytest.mark.parametrize(("seed", "epochs_done"), [(0, 0), (0, 2), (1, 0)])
def test_a_network_is_seeded_and_compiled(seed, epochs_done, adam_class, monkeypatch):
    """With stand-ins for what Keras 3 has no longer; all calls, in their order."""
    calls = mock.Mock()
    monkeypatch.setattr(train_2017.tf, "set_random_seed", calls.seed_tensorflow, raising=False)
    monkeypatch.setattr(train_2017, "network", calls.network)
    monkeypatch.setattr(train_2017, adam_class, calls.Adam)
    wait = ["--wait"] * (adam_class == "WaitingAdam")
    options = train_2017.parse_arguments([NAME, "--seed", str(seed), *wait])
    assert train_2017.compiled_model(options, epochs_done) is calls.network.return_value
    numpy = np.random.RandomState([seed, epochs_done])
    adam = calls.Adam.return_value
    assert calls.mock_calls == [
        mock.call.seed_tensorflow(numpy.randint(2**31 - 1)),
        mock.call.network(NAME),
        mock.call.Adam(lr=post.LEARNING_RATE),
        mock.call.network().compile(adam, "categorical_crossentropy", metrics=["accuracy"]),
        mock.call.network().model._make_train_function(),
    ]
    # What the layers of Keras 2.0.8 draw their seeds from.
    assert np.random.randint(10**7) == numpy.randint(10**7)


def test_constants_are_the_posts():
    assert train_2017.AUTHORS_TEST_ACCURACY == post.TEST_ACCURACY
    assert train_2017.BATCH_SIZE == post.BATCH_SIZE
    assert train_2017.VALIDATION_SPLIT == post.VALIDATION_SPLIT
    options = train_2017.parse_arguments([NAME])
    assert (options.epochs, options.seed) == (post.EPOCHS, 0)


def test_mnist_is_todays():
    for found, expected in zip(train_2017.load_mnist(), train.load_mnist(), strict=True):
        assert all(map(np.array_equal, found, expected))


def test_device_is_named_as_in_the_other_runs():
    name, cores = train_2017.device().rsplit(", ", 1)
    assert machine.device().startswith(f"{name} (") and machine.device().endswith(f", {cores}")


def test_another_keras_is_refused_in_one_line():
    with pytest.raises(SystemExit, match=r"^this needs Keras 2\.0\.8, not 3\..*$"):
        train_2017.main([NAME])


@pytest.mark.parametrize(
    ("option", "low", "high"), [("--epochs", 1, 10**6), ("--seed", 0, 2**32 - 1)]
)
def test_numbers_beyond_are_refused_in_one_line(option, low, high, capsys):
    for number in (low, high):
        train_2017.parse_arguments([NAME, option, str(number)])
    for number in (low - 1, high + 1):
        with pytest.raises(SystemExit) as end:
            train_2017.main([NAME, option, str(number)])
        line = "error: --epochs is from 1 to 1000000, --seed from 0 to 4294967295\n"
        assert (end.value.code, capsys.readouterr().err[-len(line) :]) == (2, line)


# A run, with a stand-in for Keras


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Network:
    """Stands for a network of Keras 2.0.8 and its Adam, and remembers the orders of the images."""

    def __init__(self):
        self.steps, self.weights, self.orders = 0, np.zeros(3), []
        self.optimizer = SimpleNamespace(
            get_weights=lambda: [np.array(self.steps)], set_weights=self.set_steps
        )

    def set_steps(self, values):
        (self.steps,) = values

    def get_weights(self):
        return [self.weights, 2 * self.weights]

    def set_weights(self, values):
        self.weights, double = values
        assert np.array_equal(double, 2 * self.weights)

    def fit(self, X, y, batch_size, epochs, initial_epoch, validation_split, verbose):
        assert (batch_size, validation_split, epochs - initial_epoch) == (50, 0.2, 1)
        order = np.arange(len(X))
        np.random.shuffle(order)
        self.orders.append(tuple(order))
        self.steps += len(X)
        self.weights = self.weights + order[:3]
        figures = {"acc": [0.5], "loss": [self.weights[0]], "val_acc": [0.4], "val_loss": [2.0]}
        return SimpleNamespace(history=figures)

    def evaluate(self, X, y, verbose):
        return np.float64(2.0), np.float32(0.5)

    def predict(self, X):
        return np.array([[0.3, 0.7], [0.6, 0.4]], "float32")

    def count_params(self):
        return np.int64(6)  # as in Keras 2.0.8

    def save(self, path, include_optimizer):
        assert not include_optimizer
        np.savetxt(path, self.weights)


@pytest.fixture
def network(monkeypatch, tmp_path):
    """The list of the networks that were built; the last one is in training."""
    networks = []

    def build(options, epochs_done):
        networks.append(Network())
        networks[-1].built = options.model, options.seed, epochs_done
        return networks[-1]

    images = np.zeros((20, 28, 28, 1), "uint8"), np.eye(2)[[0, 1] * 10]
    monkeypatch.setattr(train_2017, "RESULTS", tmp_path)
    monkeypatch.setattr(train_2017, "compiled_model", build)
    monkeypatch.setattr(train_2017, "load_mnist", lambda: (images, (images[0][:2], images[1][:2])))
    monkeypatch.setattr(keras, "__version__", "2.0.8")
    return networks


def run(results, *options, epochs=4, seed=0):
    train_2017.main([NAME, "--epochs", str(epochs), "--seed", str(seed), *options])
    waiting = "-waiting" if options else ""
    return results / f"{NAME}-keras2.0.8{waiting}-{epochs}epochs-seed{seed}"


def kill(function, calls):
    """Let the run of four epochs die where a function is called for the last of so many times."""
    original, effects = getattr(train_2017, function), [mock.DEFAULT] * (calls - 1) + [KilledError]
    killed = mock.patch.object(train_2017, function, wraps=original, side_effect=effects)
    with killed, pytest.raises(KilledError):
        run(train_2017.RESULTS)


def test_what_a_run_leaves(network, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    directory = run(tmp_path, epochs=2, seed=3)
    assert os.listdir(tmp_path) == [directory.name]
    files = ["history.csv", "metrics.json", "model.h5", "predictions.csv"]
    assert sorted(os.listdir(directory)) == files
    predictions = "image,label,prediction,probability\n0,0,1,0.3\n1,1,0,0.4\n"
    assert (directory / "predictions.csv").read_text() == predictions
    metrics, history = plot.read_run(directory)
    assert list(history) == ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "seconds"]
    second = [column[1] for column in history.values()][:5]
    assert second == [2, 0.5, network[0].weights[0], 0.4, 2]
    assert metrics == {
        "model": NAME,
        "rules": "2017",
        "seed": 3,
        "keras": "2.0.8",
        "tensorflow": train_2017.tf.__version__,
        "batch_size": 50,
        "validation_split": 0.2,
        "epochs": 2,
        "parameters": 6,
        "test_images": 2,
        "test_loss": 2.0,
        "test_accuracy": 0.5,
        "authors_test_accuracy": 0.9942,
        "interrupted_after_epochs": [],
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "devices": [train_2017.device()],
        "OMP_NUM_THREADS": "2",
        "KMP_BLOCKTIME": None,
    }


def test_a_run_whose_update_waits_is_another(network, tmp_path):
    one, other = run(tmp_path), run(tmp_path, "--wait")
    assert len(network) == 2
    more = {"update": "waits for all gradients"}
    assert plot.read_run(other)[0] == {**plot.read_run(one)[0], **more}


def test_goes_on_after_kills(network, tmp_path):
    """Before the first epoch is saved, twice before the third is, and among the results."""
    for calls in (2, 4, 2):  # the first one is at its start
        kill("write_state", calls)
    kill("write_table", 2)
    directory = run(tmp_path)
    assert [one.built for one in network] == [(NAME, 0, done) for done in (0, 0, 2, 2, 4)]
    metrics, history = plot.read_run(directory)
    assert metrics["interrupted_after_epochs"] == [0, 2, 2, 4]

    directory.rename(tmp_path / "killed")
    directory = run(tmp_path)
    assert history == {**plot.read_run(directory)[1], "seconds": history["seconds"]}
    assert np.array_equal(network[-1].weights, network[-2].weights)
    assert network[-1].steps == network[-2].steps == 4 * 20
    # Each order follows from the seed and the epoch.
    orders = network[-1].orders
    assert len(set(orders)) == 4
    parts = orders[:1], orders[:3], orders[2:3], orders[2:], []
    assert tuple(one.orders for one in network[:5]) == parts
    run(tmp_path, seed=1)
    assert not set(network[-1].orders) & set(orders)


def test_a_state_of_other_versions_is_refused(network, tmp_path, monkeypatch):
    kill("write_state", 4)
    (state_file,) = tmp_path.glob("*.unfinished/state.npz")
    before = state_file.read_bytes()
    monkeypatch.setattr(train_2017.tf, "__version__", "1.3.0")
    with pytest.raises(SystemExit, match="is of another run"):
        run(tmp_path)
    assert state_file.read_bytes() == before


def test_a_second_process_is_refused(network, tmp_path, monkeypatch):
    def train_meanwhile(*arguments):
        with pytest.raises(SystemExit, match="another process is training"):
            run(tmp_path)

    monkeypatch.setattr(train_2017, "train", train_meanwhile)
    run(tmp_path)


@pytest.mark.parametrize("function", ["open", "flock"])
def test_a_finished_run_is_left_alone(function, network, tmp_path, monkeypatch):
    """Also by a process that is about to call a function when another one finishes the run."""
    module = {"open": train_2017, "flock": train_2017.fcntl}[function]
    original = getattr(module, function, open)

    def late(*arguments):
        patch.undo()
        run(tmp_path)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, late, raising=False)
        directory = run(tmp_path)
    (tmp_path / f"{directory.name}.unfinished").mkdir()  # as a kill may leave it
    run(tmp_path)
    assert len(network) == 1
    assert os.listdir(tmp_path) == [directory.name]
