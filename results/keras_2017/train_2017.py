"""Train a network of the author's in Keras 2.0.8, the newest when the post's figures were made.

TensorFlow 1.15.2, as Intel builds it, took 7.0 ms of processor time for an image of training
deep_cnn_advanced, where 1.3.0 took 15.6. To have both today, take Python 3.6 (from pyenv, say) and

    python3.6 -m venv keras2017
    keras2017/bin/pip install pip==21.3.1 wheel==0.37.1
    keras2017/bin/pip install keras==2.0.8 intel-tensorflow==1.15.2 numpy==1.18.5 h5py==2.10.0
    OMP_NUM_THREADS=2 KMP_BLOCKTIME=0 keras2017/bin/python results/keras_2017/train_2017.py deep_cnn

The run leaves its results, all at once, in results/deep_cnn-keras2.0.8-100epochs-seed0/. Until
then its state is in the directory of that name with `.unfinished`, and is replaced after every
epoch: kill it at any moment, and the same command goes on after the last finished epoch. The
order of the images follows from the seed and the epoch's number, so it never repeats one; the
dropout, from the seed and the epoch that the process began with. No run gives the bits of another,
interrupted or not: the update of the weights races backpropagation (facts.py), by more on
TensorFlow 1.15.2 than on 1.3.0. On 1.15.2 Adam's counter of steps is read after it is raised, too:
its first step is 0.00074, where it is 0.00100 on 1.3.0. With `--wait` the update waits until all
gradients are there, and the results are in deep_cnn-keras2.0.8-waiting-100epochs-seed0/.

Today's Keras reads the weights: `models.MODELS["deep_cnn"]().load_weights(".../model.h5")`.

training.txt is older than this file: two epochs by a plain `fit`, on TensorFlow 1.3.0.
"""

import argparse
import contextlib
import csv
import fcntl
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    InputLayer,
    MaxPooling2D,
)
from keras.models import Sequential
from keras.optimizers import Adam
from keras.utils import to_categorical

RESULTS = Path(__file__).resolve().parents[1]
MNIST_FILE = RESULTS.parent / "mnist.npz"
BATCH_SIZE = 50
VALIDATION_SPLIT = 0.2
AUTHORS_TEST_ACCURACY = {
    "deep_cnn_advanced": 0.9942,
    "deep_cnn_advanced_nin": 0.9914,
    "deep_cnn": 0.9368,
}

# The networks


def network(name):
    """Build a network of the author's, the one that models.py lists under this name."""
    plain = name == "deep_cnn"
    initializer = "glorot_uniform" if plain else "he_normal"
    model = Sequential([InputLayer((28, 28, 1))])
    for number in range(6):
        model.add(Conv2D(50, (3, 3), padding="same", kernel_initializer=initializer))
        if name == "deep_cnn_advanced_nin" and number > 0:  # so it is in the post
            model.add(Conv2D(25, (1, 1), kernel_initializer=initializer))
        if not plain:
            model.add(BatchNormalization())
        model.add(Activation("relu"))
        if number % 2 == 1:
            model.add(MaxPooling2D(pool_size=(2, 2)))
    model.add(Flatten())
    model.add(Dense(50, activation="relu", kernel_initializer=initializer))
    if not plain:
        model.add(Dropout(0.5))
    model.add(Dense(10, activation="softmax", kernel_initializer=initializer))
    return model


class WaitingAdam(Adam):
    """Adam that updates no weight before all gradients are there."""

    def get_gradients(self, loss, params):
        """Return the gradients of Keras 2.0.8, each of them only when all are there."""
        return tf.tuple(super().get_gradients(loss, params))


# The training


def main(argv=None):
    """Train the network that the command line asks for; exit with one line if that cannot be."""
    options = parse_arguments(argv)
    if keras.__version__ != "2.0.8":
        sys.exit(f"this needs Keras 2.0.8, not {keras.__version__}; its first lines tell how")
    waiting = "-waiting" if options.wait else ""
    name = f"{options.model}-keras2.0.8{waiting}-{options.epochs}epochs-seed{options.seed}"
    directory, unfinished = RESULTS / name, RESULTS / f"{name}.unfinished"
    lock = RESULTS / f"{name}.lock"
    with open(str(lock), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another process is training {directory}")
        if not directory.exists():  # asked under the lock: another may have finished it just now
            unfinished.mkdir(exist_ok=True)
            train(options, directory, unfinished)
        shutil.rmtree(str(unfinished), ignore_errors=True)  # a kill may have left it
        # Now that the results are there: whoever locks what is gone finds them, and trains nothing.
        with contextlib.suppress(FileNotFoundError):
            lock.unlink()
    print(f"{directory} is finished")


def parse_arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=sorted(AUTHORS_TEST_ACCURACY))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait", action="store_true", help="update when all gradients are there")
    options = parser.parse_args(argv)
    if not (1 <= options.epochs <= 10**6 and 0 <= options.seed < 2**32):
        parser.error("--epochs is from 1 to 1000000, --seed from 0 to 4294967295")
    return options


def train(options, directory, unfinished):
    """Train a network to its last epoch, from wherever its state is, and save the results."""
    settings = {
        "model": options.model,
        "rules": "2017",
        "seed": options.seed,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "batch_size": BATCH_SIZE,
        "validation_split": VALIDATION_SPLIT,
    }
    if options.wait:
        settings["update"] = "waits for all gradients"
    (X_train, y_train), test = load_mnist()
    state_file = unfinished / "state.npz"
    state, values = starting_state(state_file, settings)
    history = state["history"]
    model = compiled_model(options, epochs_done=len(history))
    if history:
        restore(model, values)
    for epoch in range(len(history), options.epochs):
        history.append(train_epoch(model, X_train, y_train, options.seed, epoch))
        write_state(state_file, state, model.get_weights() + model.optimizer.get_weights())
        line = "Epoch {epoch}: validation {val_accuracy:.4f}, {seconds:.0f} s"
        print(line.format(**history[-1]), flush=True)
    save(directory, unfinished, model, state, test)


def load_mnist():
    """Return MNIST, pixels from 0 to 255 and labels one-hot, as the post feeds it to Keras."""
    with np.load(str(MNIST_FILE)) as arrays:
        return [
            (arrays[f"x_{part}"][..., np.newaxis], to_categorical(arrays[f"y_{part}"], 10))
            for part in ("train", "test")
        ]


def compiled_model(options, epochs_done):
    """Return a network of the author's, ready to be trained for its next epoch.

    The seeds of the initial weights and of the dropout are drawn here, and TensorFlow's stream
    of random numbers begins anew in every process: without `epochs_done`, a resumed run would
    have the dropout of its first epochs again.
    """
    np.random.seed([options.seed, epochs_done])
    tf.set_random_seed(np.random.randint(2**31 - 1))
    model = network(options.model)
    adam = WaitingAdam if options.wait else Adam
    model.compile(adam(lr=0.001), "categorical_crossentropy", metrics=["accuracy"])
    model.model._make_train_function()  # Adam's moments are there only then
    return model


def train_epoch(model, X, y, seed, epoch):
    """Train for one epoch, counted from 0, by a plain `fit`; return its line of history.csv.

    A single `fit` of all epochs does the same, but shuffles the order that the epoch before
    left, which a resumed run does not have.
    """
    np.random.seed([seed, epoch])
    started = time.perf_counter()
    figures = model.fit(
        X,
        y,
        batch_size=BATCH_SIZE,
        epochs=epoch + 1,
        initial_epoch=epoch,
        validation_split=VALIDATION_SPLIT,
        verbose=0,
    ).history
    return {
        "epoch": epoch + 1,
        "accuracy": float(figures["acc"][0]),
        "loss": float(figures["loss"][0]),
        "val_accuracy": float(figures["val_acc"][0]),
        "val_loss": float(figures["val_loss"][0]),
        "seconds": round(time.perf_counter() - started, 3),
    }


# The state, and the results


def starting_state(path, settings):
    """Return the state to go on from, after it is written: so each interruption is recorded.

    Args:
        path: of the state's file.
        settings: what must be the same in all parts of a run, a dict.

    Returns:
        The state, a dict for JSON, and the arrays of the network and of Adam.
    """
    state, values = {"settings": settings, "devices": [], "interruptions": [], "history": []}, []
    if path.exists():
        state, values = read_state(path)
        if state["settings"] != settings:
            sys.exit(f"{path} is of another run: {state['settings']}, not {settings}")
        state["interruptions"].append(len(state["history"]))
        print(f"Resuming after epoch {len(state['history'])}", flush=True)
    if state["devices"][-1:] != [device()]:
        state["devices"].append(device())
    write_state(path, state, values)
    return state, values


def write_state(path, state, values):
    """Replace the file of the state, which at every moment is a whole one, old or new."""
    temporary = path.with_name("state.npz.tmp")
    with open(str(temporary), "wb") as file:
        arrays = {str(i): value for i, value in enumerate(values)}
        np.savez(file, state=json.dumps(state), **arrays)
    sync(temporary)
    os.replace(str(temporary), str(path))


def read_state(path):
    """Return what `write_state` was given."""
    with np.load(str(path)) as arrays:
        values = [arrays[str(i)] for i in range(len(arrays.files) - 1)]
        return json.loads(str(arrays["state"])), values


def restore(model, values):
    """Give a network its weights, and its Adam the counter of steps and the moments."""
    weights = len(model.get_weights())
    model.set_weights(values[:weights])
    model.optimizer.set_weights(values[weights:])


def save(directory, unfinished, model, state, test):
    """Test the trained network, and leave the files of its run in `directory`, all at once."""
    X, y = test
    loss, accuracy = model.evaluate(X, y, verbose=0)
    metrics = dict(
        state["settings"],
        epochs=len(state["history"]),
        parameters=int(model.count_params()),
        test_images=len(X),
        test_loss=float(loss),
        test_accuracy=float(accuracy),
        authors_test_accuracy=AUTHORS_TEST_ACCURACY[state["settings"]["model"]],
        interrupted_after_epochs=state["interruptions"],
        python=platform.python_version(),
        numpy=np.__version__,
        devices=state["devices"],
        OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS"),
        KMP_BLOCKTIME=os.environ.get("KMP_BLOCKTIME"),
    )
    new = unfinished / "results"
    shutil.rmtree(str(new), ignore_errors=True)
    new.mkdir()
    (new / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    write_table(new / "history.csv", state["history"])
    write_table(new / "predictions.csv", predictions(model, X, y))
    model.save(str(new / "model.h5"), include_optimizer=False)
    for path in [*new.iterdir(), new]:
        sync(path)
    new.rename(directory)
    sync(directory.parent)


def predictions(model, X, y):
    """Return the lines of predictions.csv; `probability` is what the right digit was given."""
    labels = y.argmax(axis=1)
    return [
        {"image": i, "label": label, "prediction": p.argmax(), "probability": p[label]}
        for i, (label, p) in enumerate(zip(labels, model.predict(X)))
    ]


def write_table(path, rows):
    """Write dicts with the same keys as a CSV file."""
    with open(str(path), "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def sync(path):
    """Bring a file, or the names in a directory, to the disk."""
    descriptor = os.open(str(path), os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def device():
    """Return the name of the processor and how many of its cores may be used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    main()
