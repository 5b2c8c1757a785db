"""Which networks of a reader's are trained, and which are refused before the first epoch, and how.

All that Keras trains here is trained, and goes on after an interruption bit for bit.
"""

import json

import keras
import numpy as np
import pytest
from helpers import KilledError, history_of, load_few, run_main
from keras import Input, Sequential, layers

import models
import runs
import train


def compiled(*parts, shape=(28, 28, 1), **changes):
    """Return a network of these layers, compiled as the post's, but for the changes."""
    model = Sequential([*([Input(shape)] if shape else []), *parts])
    settings = {"loss": "categorical_crossentropy", "optimizer": "adam", "metrics": ["accuracy"]}
    model.compile(**settings | changes)
    return model


def dense(units=10, activation="softmax", **options):
    return layers.Dense(units, activation=activation, **options)


def plain(**changes):
    return compiled(layers.Flatten(), layers.Dropout(0.5), dense(), **changes)


@keras.saving.register_keras_serializable()
class Subclass(keras.Model):
    """Images become floats here: a network of one's own gets them as they are, uint8."""

    def __init__(self, **options):
        super().__init__(**options)
        self.parts = [layers.Conv2D(2, 3), layers.Flatten(), layers.Dropout(0.5), dense()]

    def call(self, images, training=False):
        output = self.cast(images)
        for part in self.parts:
            output = part(output, training=training) if "drop" in part.name else part(output)
        return output

    def cast(self, images):
        return keras.ops.cast(images, "float32") / 255


class OfBytes(Subclass):
    def cast(self, images):
        return images


def subclass(kind=Subclass):
    model = kind()
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    return model


def by_policy(policy, **options):
    """Return a function that builds a network under a policy of types."""

    def build():
        keras.config.set_dtype_policy(policy)
        return plain(**options)

    return build


TRAINED = {
    "no Input, and acc": lambda: compiled(layers.Flatten(), dense(), shape=None, metrics=["acc"]),
    "any size, and an accuracy of that name": lambda: compiled(
        layers.Conv2D(2, 3),
        layers.GlobalAveragePooling2D(),
        dense(),
        shape=(None, None, 1),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    ),
    "SGD, and a metric of ten numbers": lambda: plain(
        optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
        metrics=["accuracy", keras.metrics.F1Score()],
    ),
    "logits": lambda: compiled(
        layers.Flatten(),
        dense(activation=None),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
    ),
}


@pytest.fixture
def train_mine(tmp_path, monkeypatch):
    """A function that trains a network, called "mine", without pictures; returns its directory."""
    monkeypatch.setattr(train, "try_to_draw", lambda *plot: None)

    def train_it(build, epochs, name="whole", try_out=train.try_out):
        monkeypatch.setitem(models.MODELS, "mine", build)
        output = tmp_path / name
        done = run_main("mine", "--epochs", epochs, "--output", output, try_out=try_out)
        assert done[::2] == (0, "")
        return output / f"mine-{epochs}epochs-seed0"

    return train_it


@pytest.mark.parametrize("case", TRAINED)
def test_a_network_is_trained_and_what_it_gives_as_probabilities_are_some(case, train_mine):
    """Of the digits that it was given."""
    run_dir = train_mine(TRAINED[case], 1)
    metrics, history = runs.read_run(run_dir)
    assert {"accuracy", "loss", "val_accuracy", "val_loss"} < set(history)
    table = runs.read_table(run_dir / "predictions.csv", 200)
    right = np.equal(table["prediction"], load_few()[1][1].argmax(axis=1))
    assert min(table["probability"]) >= 0 and max(table["probability"]) <= 1
    assert min(np.array(table["probability"])[right]) >= 0.1
    assert np.mean(right) == pytest.approx(metrics["test_accuracy"], abs=1e-6)


INTERRUPTED = {
    "mixed float16": by_policy("mixed_float16"),
    "bfloat16, and no Input": by_policy("bfloat16", shape=None),
    "a subclass": subclass,
}


@pytest.mark.parametrize("case", INTERRUPTED)
def test_a_network_goes_on_bit_for_bit(case, train_mine, monkeypatch):
    policy = keras.config.dtype_policy()
    whole = train_mine(INTERRUPTED[case], 2)
    assert keras.config.dtype_policy() == policy
    fit = train.fit
    for last in (0, 1, 1):  # killed in the first epoch, in the second, and in that again

        def stop(model, X, y, epochs, seed, after_epoch, last=last):
            if last > epochs.start:
                fit(model, X, y, range(epochs.start, last), seed, after_epoch)
            raise KilledError

        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(train, "fit", stop)
            train_mine(INTERRUPTED[case], 2, "stopped", try_out=lambda *run: None)
    stopped = train_mine(INTERRUPTED[case], 2, "stopped", try_out=lambda *run: None)
    assert history_of(stopped) == history_of(whole)
    # Each probability, in all its digits: the networks are the same to the last bit.
    one, other = (path / "predictions.csv" for path in (whole, stopped))
    assert one.read_text() == other.read_text()
    assert runs.read_metrics(stopped)["interrupted_after_epochs"] == [0, 1, 1]


class Grows:
    """A function whose networks differ: each has one unit more than the one before."""

    units = 2

    def __call__(self):
        self.units += 1
        return compiled(layers.Flatten(), dense(self.units), dense())


outside, shared = plain(), dense()
REFUSED = {
    "no return": (lambda: None, "returns nothing: `return compiled(...)` is missing"),
    "a layer": (dense, "returns a Dense: `return compiled(...)` is missing"),
    "called": (plain(), "is no function that builds a network: write its name, without"),
    "called, no return": (None, "is no function that builds a network: write its name, without"),
    "not compiled": (lambda: Sequential([Input((28, 28, 1))]), "is not compiled: return compiled"),
    "no accuracy": (lambda: plain(metrics=None), "measures no accuracy: compile it with metrics="),
    "another accuracy": (
        lambda: plain(metrics=["categorical_accuracy"]),
        "measures no accuracy: compile it with metrics=['accuracy']",
    ),
    "nine digits": (
        lambda: compiled(layers.Flatten(), dense(9)),
        "gives (9,) for an image: its last layer has to be of 10 digits",
    ),
    "no Flatten": (
        lambda: compiled(layers.MaxPooling2D(), dense()),
        "gives (14, 14, 10) for an image: Flatten() is missing before its last layer",
    ),
    "rows": (
        lambda: compiled(dense(), shape=(784,)),
        "takes inputs of (784,), and images are (28, 28, 1): Input(shape=(28, 28, 1))",
    ),
    "color": (
        lambda: compiled(layers.Flatten(), dense(), shape=(32, 32, 3)),
        "takes inputs of (32, 32, 3), and images are (28, 28, 1): Input(shape=(28, 28, 1))",
    ),
    "a sparse loss": (
        lambda: plain(loss="sparse_categorical_crossentropy"),
        "has a sparse loss, and the labels here are one-hot: categorical_crossentropy",
    ),
    "a sparse loss object": (
        lambda: plain(loss=keras.losses.SparseCategoricalCrossentropy()),
        "has a sparse loss, and the labels here are one-hot: categorical_crossentropy",
    ),
    "no softmax": (
        lambda: compiled(layers.Flatten(), dense(activation=None)),
        "gives no probabilities: end it with activation='softmax', or compile it with a loss of fr",
    ),
    "bytes into a convolution": (lambda: subclass(OfBytes), "cannot be trained: "),
    "built outside": (lambda: outside, "builds its layers outside of its function"),
    "a layer from outside": (
        lambda: compiled(layers.Flatten(), shared),
        "builds its layers outside of its function",
    ),
    "another each time": (Grows(), "is another each time that it is built"),
}


def refused(*names, output):
    """Give the command to train these networks; return the one line that it answers with."""
    code, told, errors = run_main(*names, "--output", output, try_out=train.try_out)
    assert (code, told, errors.count("\n")) == (1, "", 1), errors
    assert errors.startswith("train.py: ") and len(errors) < 400
    assert list(output.iterdir()) == []
    return errors


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_named_in_one_line_before_anything_is_trained(case, tmp_path, monkeypatch):
    build, part = REFUSED[case]
    monkeypatch.setitem(models.MODELS, "mine", build)
    line = refused("mine", output=tmp_path)
    assert "mine" in line and part in line


def test_a_mistake_in_the_last_network_is_named_before_the_first_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "good", plain)
    monkeypatch.setitem(models.MODELS, "bad", lambda: plain(metrics=None))
    assert "bad of models.py measures no accuracy" in refused("good", "bad", output=tmp_path)


def test_an_error_in_a_network_is_pythons_traceback_of_it(monkeypatch, tmp_path):
    monkeypatch.setitem(models.MODELS, "mine", lambda: models.conv_3x3(no_such_argument=1))
    with pytest.raises(TypeError, match="no_such_argument"):
        run_main("mine", "--output", tmp_path)


def test_a_metric_that_is_no_number_is_in_no_file(tmp_path, monkeypatch):
    """JSON has no NaN: a loss that is none is null."""
    monkeypatch.setitem(models.MODELS, "mine", TRAINED["SGD, and a metric of ten numbers"])
    monkeypatch.setattr(keras.Model, "evaluate", evaluate_to_nan)
    assert run_main("mine", "--epochs", 1, "--output", tmp_path)[0] == 0
    directory = tmp_path / "mine-1epochs-seed0"
    assert "f1" not in (directory / "history.csv").read_text()

    def refuse(constant):
        raise ValueError(constant)

    text = (directory / "metrics.json").read_text()
    assert json.loads(text, parse_constant=refuse)["test_loss"] is None


def evaluate_to_nan(model, *arguments, **options):
    return {"loss": float("nan"), "accuracy": 0.1}
