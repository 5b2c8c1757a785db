"""Train the post's two networks on MNIST, evaluate them and plot their accuracy.

`python train.py` is the post's run; `python train.py --help` names what can be set.
TensorFlow, Keras and matplotlib are imported in the functions that use them, so that
`--help` and wrong arguments are answered at once.
"""

import argparse
import contextlib
import csv
import importlib.metadata
import json
import math
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np

from data import load_mnist

POST_TEST_ACCURACY = {"deep_cnn_advanced": 0.9942, "deep_cnn_advanced_nin": 0.9914}
POST_EPOCHS = 100
BATCH_SIZE = 50
VALIDATION_SPLIT = 0.2
EVALUATION_BATCH_SIZE = 100  # of validation and test; no accuracy depends on it
STEPS_PER_EXECUTION = 10  # batches that TensorFlow trains on without coming back to Python
STATE_FILE = "state.npz"
TO_START_OVER = "to start this run over, move that file away"


def main():
    """Run what the command line asks for, one model after the other."""
    options = parse_arguments()
    stop_at_once_on_signals()
    # TensorFlow turns it on by itself only where the processor has AVX-512.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    run_dirs = runs_to_do(options.run_dirs)
    settings = {name: run_settings(name, options.seed) for name in run_dirs}
    # All that could end the runs is read now, not when the first of them is over.
    states = {
        name: read_state(run_dir / STATE_FILE, settings[name], options.epochs)
        for name, run_dir in run_dirs.items()
    }
    try:
        mnist = load_mnist()
    except (OSError, ValueError) as error:
        sys.exit(f"train.py: {error}")
    for name, run_dir in run_dirs.items():
        if not (run_dir / STATE_FILE).exists():  # it marks what this command is still to do
            with explain_failed_save(run_dir / STATE_FILE):
                write_state(run_dir / STATE_FILE, settings[name], history=[], variables=[])
    start_tensorflow()

    epochs_to_go = sum(options.epochs - len(history) for history, _ in states.values())
    for name, run_dir in run_dirs.items():
        epochs_to_go -= options.epochs - len(states[name][0])
        train_and_evaluate(
            settings[name], mnist, run_dir, options.epochs, states[name], epochs_to_go
        )


def runs_to_do(run_dirs):
    """Return the `run_dirs` without those that an interrupted command has finished already."""
    unfinished = {name for name, run_dir in run_dirs.items() if (run_dir / STATE_FILE).exists()}
    to_do = {}
    for name, run_dir in run_dirs.items():
        if unfinished and name not in unfinished and (run_dir / "metrics.json").exists():
            print(f"{name} is finished: {run_dir}")
        else:
            to_do[name] = run_dir
    return to_do


# The command line


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that answers a wrong argument with one line and exit code 2."""

    def error(self, message):
        """Exit without the usage that argparse prints first."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse_arguments():
    """Parse and check the command line; `run_dirs` maps each model to its run directory."""
    parser = OneLineParser("train.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        type=model_name,
        help=f"{' or '.join(POST_TEST_ACCURACY)} (default: both)",
    )
    parser.add_argument(
        "--epochs",
        metavar="N",
        type=whole_number(1, 10**6),
        default=POST_EPOCHS,
        help="how many epochs to train (default: %(default)s, as in the post)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole_number(0, 2**32 - 1),
        default=0,
        help="what the weights, the dropout and the order of the images follow from "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="where each run gets a directory of its own (default: %(default)s)",
    )
    options = parser.parse_args()
    options.run_dirs = {
        name: options.output / f"{name}-{options.epochs}epochs-seed{options.seed}"
        for name in options.models or POST_TEST_ACCURACY
    }
    for run_dir in options.run_dirs.values():
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=run_dir).close()
        except OSError as error:
            parser.error(f"cannot write to {run_dir}: {error.strerror}")
    return options


def model_name(text):
    """Parse the name of a model."""
    if text not in POST_TEST_ACCURACY:
        known = " and ".join(POST_TEST_ACCURACY)
        raise argparse.ArgumentTypeError(f"unknown model {text!r}; known are {known}")
    return text


def whole_number(low, high):
    """Return a parser of the whole numbers from `low` to `high`."""

    def parse(text):
        with contextlib.suppress(ValueError):
            if low <= int(text) <= high:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")

    return parse


# A run


def train_and_evaluate(settings, mnist, run_dir, epochs, state, epochs_after):
    """Train one model, print what the post prints, and leave the results in `run_dir`.

    Args:
        settings: what `run_settings` returns.
        mnist: what `data.load_mnist` returns.
        run_dir: the directory of the run, a `Path`.
        epochs: the epochs of the whole run.
        state: what `read_state` returns.
        epochs_after: the epochs of the runs that follow, for the estimate of the time left.
    """
    import keras

    from models import MODELS

    (X_train, y_train), (X_test, y_test) = mnist
    print(X_train.shape, X_test.shape, y_train.shape, y_test.shape)

    keras.utils.clear_session()  # a run is the same whatever was trained before it
    keras.utils.set_random_seed(settings["seed"])
    model = MODELS[settings["model"]]()
    model.summary()

    state_file = run_dir / STATE_FILE
    history = fit(model, X_train, y_train, epochs, settings, state, state_file, epochs_after)

    test_loss, test_accuracy = model.evaluate(batches(X_test, y_test), verbose=verbosity())
    post_test_accuracy = POST_TEST_ACCURACY[settings["model"]]
    print(f"Test accuracy: {test_accuracy:.4f} (in the post: {post_test_accuracy:.4f})")

    seconds_per_epoch = statistics.median(row["seconds"] for row in history)
    metrics = {
        **settings,
        "epochs": epochs,
        "parameters": model.count_params(),
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "post_test_accuracy": post_test_accuracy,
        "seconds_per_epoch": round(seconds_per_epoch, 3),
        "images_per_second": round(training_images(X_train) / seconds_per_epoch, 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "processor": processor(),
    }
    with explain_failed_save(run_dir):
        save_results(run_dir, model, history, metrics)
    print(f"Results: {run_dir}")


def fit(model, X, y, epochs, settings, state, state_file, epochs_after):
    """Train `model` on the first 80 % of the images, as the post does, from `state` on.

    All randomness of an epoch follows from the seed and the epoch's number, and the state is
    saved after every epoch: a run does not depend on where it was interrupted.

    Returns:
        The history, a list of one dict an epoch with the columns of `history.csv`: `epoch`
        from 1, `accuracy`, `loss`, `val_accuracy`, `val_loss`, and `seconds`, validation
        included.
    """
    import keras

    history, values = state
    model.optimizer.build(model.trainable_variables)
    # The state of the dropout's generator is among the variables, but not among the weights.
    variables = model.variables + model.optimizer.variables
    if history:
        if [variable.shape for variable in variables] != [value.shape for value in values]:
            sys.exit(f"train.py: {state_file} is of other layers; {TO_START_OVER}")
        print(f"resuming after epoch {len(history)} of {epochs}")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    started = 0.0

    def start_clock(epoch, logs):
        nonlocal started
        started = time.perf_counter()

    def record(epoch, logs):
        seconds = round(time.perf_counter() - started, 3)
        figures = {name: float(logs[name]) for name in sorted(logs)}
        history.append({"epoch": epoch + 1, **figures, "seconds": seconds})
        with explain_failed_save(state_file):
            write_state(state_file, settings, history, variables)
        show_progress(history, epochs, epochs_after)

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=start_clock, on_epoch_end=record)]
    if verbosity():
        callbacks.insert(0, keras.callbacks.ProgbarLogger())  # completes its bar before `record`
    n = training_images(X)
    steps = math.ceil(n / BATCH_SIZE)
    model.steps_per_execution = math.gcd(steps, STEPS_PER_EXECUTION)  # none crosses an epoch's end
    model.fit(
        shuffled_batches(X[:n], y[:n], settings["seed"], range(len(history), epochs)),
        steps_per_epoch=steps,
        epochs=epochs,
        initial_epoch=len(history),
        validation_data=batches(X[n:], y[n:]),
        shuffle=False,  # `shuffled_batches` does it
        callbacks=callbacks,
        verbose=verbosity(),
    )
    return history


def training_images(X):
    """Return how many images of `X` are trained on; Keras validates on the last ones, too."""
    return int(len(X) * (1 - VALIDATION_SPLIT))


def shuffled_batches(X, y, seed, epochs):
    """Return a `tf.data.Dataset` of the batches of all `epochs`, in a new order in each.

    The order of epoch e follows from (seed, e) alone. (Keras's own shuffling, once seeded,
    repeats one order in every epoch: Keras 3.15 with TensorFlow 2.21.)

    Args:
        X: images, uint8 (n, 28, 28, 1); they stay uint8 in memory.
        y: labels, float32 (n, 10).
        seed: a whole number from 0 to 2**32 - 1.
        epochs: a `range`, counted from 0.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        X, y = tf.constant(X), tf.constant(y)

    def order(epoch):
        indices = tf.range(len(X))
        indices = tf.random.experimental.stateless_shuffle(indices, seed=(seed, epoch))
        return tf.data.Dataset.from_tensor_slices(indices).batch(BATCH_SIZE)

    dataset = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(order)
    dataset = dataset.map(lambda indices: (tf.gather(X, indices), tf.gather(y, indices)))
    return without_autotune(dataset.prefetch(2))


def batches(X, y):
    """Return a `tf.data.Dataset` of the batches of `X` and `y` in their own order."""
    import tensorflow as tf

    with tf.device("CPU"):
        dataset = tf.data.Dataset.from_tensor_slices((X, y))
    return without_autotune(dataset.batch(EVALUATION_BATCH_SIZE).prefetch(2))


def without_autotune(dataset):
    """Return `dataset` without the tuning that TensorFlow adds to every input pipeline.

    At the end of an epoch its thread may sleep on for seconds (the README tells how long),
    and the epoch with it; there is nothing to tune in pipelines that only copy 50 images.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def verbosity():
    """Return Keras's `verbose`: its bar in a terminal, nothing in a file."""
    return 1 if sys.stdout.isatty() else 0


def show_progress(history, epochs, epochs_after):
    """Print the time left for all runs; where there is no bar, the epoch's figures as well."""
    last = history[-1]
    parts = []
    if not verbosity():
        parts.append(f"Epoch {last['epoch']}/{epochs}")
        parts += [f"{name}: {last[name]:.4f}" for name in last if name not in ("epoch", "seconds")]
        parts.append(f"{last['seconds']:.0f} s")
    epochs_left = epochs - last["epoch"] + epochs_after
    if epochs_left:
        pace = statistics.median(row["seconds"] for row in history[-5:])
        parts.append(f"time left: about {timedelta(seconds=round(pace * epochs_left))}")
    if parts:
        print(" - ".join(parts))


def processor():
    """Return the processor and how many cores may be used: a result's last bits depend on both."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores left by taskset or Slurm
    return f"{name}, {len(affinity(0)) if affinity else os.cpu_count()} cores"


# The state of an unfinished run


def run_settings(name, seed):
    """Return what the outcome of a run follows from, besides the code and the machine."""
    return {
        "model": name,
        "seed": seed,
        "tensorflow": importlib.metadata.version("tensorflow"),
        "keras": importlib.metadata.version("keras"),
        "TF_ENABLE_ONEDNN_OPTS": os.environ["TF_ENABLE_ONEDNN_OPTS"],
    }


def write_state(path, settings, history, variables):
    """Replace the state file by the state after the last epoch of `history`.

    At every moment the file at `path` is a whole one, the earlier or the new.

    Raises:
        OSError: the state could not be written; the earlier one is untouched.
    """
    values = {str(i): np.asarray(variable) for i, variable in enumerate(variables)}
    run = json.dumps({"settings": settings, "history": history})
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, run=run, **values)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_state(path, settings, epochs):
    """Read the state file of a run; exit with one line if it is not one of this very run.

    Returns:
        `(history, values)`: the rows of the finished epochs and, as arrays, the values of the
        model's and the optimizer's variables. Both are empty if there is no state file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            run = json.loads(str(arrays["run"]))
            values = [arrays[str(i)] for i in range(len(arrays.files) - 1)]
        history, found = run["history"], run["settings"]
    except FileNotFoundError:
        return [], []
    except Exception as error:  # whatever NumPy, zipfile and json make of a damaged file
        reason = f"is no whole state of a run ({type(error).__name__}: {error})"
    else:
        differences = [
            f"{key} is {found.get(key)} in it and {settings[key]} here"
            for key in settings
            if found.get(key) != settings[key]
        ]
        if len(history) > epochs:
            differences.append(f"it has {len(history)} epochs and this run {epochs}")
        if not differences:
            return history, values
        reason = f"belongs to another run: {', '.join(differences)}"
    return sys.exit(f"train.py: {path} {reason}; {TO_START_OVER}")


@contextlib.contextmanager
def explain_failed_save(path):
    """End the program with one line if `path` cannot be written, on a full disk above all."""
    try:
        yield
    except OSError as error:
        sys.exit(
            f"train.py: cannot save {path}: {error.strerror or error}; when that is mended, "
            "the same command goes on after the last saved epoch"
        )


# The results


def save_results(run_dir, model, history, metrics):
    """Put the four files of a finished run in place, then remove its state file."""
    from plot import plot_accuracy

    new = run_dir / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    with open(new / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    (new / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    model.save(new / "model.keras")
    plot_accuracy(new)
    for file in sorted(new.iterdir()):
        os.replace(file, run_dir / file.name)
    new.rmdir()
    (run_dir / STATE_FILE).unlink(missing_ok=True)


# Before the run


def stop_at_once_on_signals():
    """Make Ctrl-C and SIGTERM stop with one line and exit code 130 or 143.

    Nothing is cleaned up, and need not be: a run survives SIGKILL just the same.
    """
    sys.stdout.reconfigure(line_buffering=True)
    stderr = os.dup(2)  # a signal may come while `start_tensorflow` has it redirected

    def stop(number, frame):
        line = f"stopped by {signal.Signals(number).name}; the same command goes on"
        line += " after the last finished epoch\n"
        os.write(stderr, ("\n" + line if sys.stdout.isatty() else line).encode())
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # so it is for `train.py &` in a script
            signal.signal(number, stop)


def start_tensorflow():
    """Import Keras and TensorFlow, and keep their greetings from the user.

    TensorFlow 2.21 logs a dozen lines to file descriptor 2 before TF_CPP_MIN_LOG_LEVEL counts.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        import models  # noqa: F401, I001  before TensorFlow, which imports Keras

        import tensorflow as tf

        tf.config.list_logical_devices()
    except OSError as error:  # its import wants a temporary directory with room
        sys.exit(f"train.py: cannot start TensorFlow: {error}")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


if __name__ == "__main__":
    main()
