"""Train the post's two networks on MNIST, evaluate them and plot their accuracy.

`python train.py` is the post's run, `python train.py deep_cnn` that of the plain network which
the post improves on; `python train.py --help` names what can be set. TensorFlow, Keras and
matplotlib are imported in the functions that use them, so that `--help` and wrong arguments
are answered at once.
"""

import argparse
import contextlib
import fcntl
import importlib.metadata
import itertools
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
import zipfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from data import BATCH_SIZE, VALIDATION_SPLIT, batches, load_mnist, shuffled_batches, split

POST_EPOCHS = 100
POST_MODELS = ("deep_cnn_advanced", "deep_cnn_advanced_nin")
# In the post, and for `deep_cnn` in the notebook of the author's repository (October 2017).
AUTHORS_TEST_ACCURACY = {
    "deep_cnn_advanced": 0.9942,
    "deep_cnn_advanced_nin": 0.9914,
    "deep_cnn": 0.9368,
}
GOES_ON = "the same command goes on after the last finished epoch"
TO_START_OVER = "to start this run over, move that file away"


def train(run, state, mnist, epochs_left):
    """Do what the post does, with one network: build, fit, evaluate, save and plot.

    Args:
        run: the `Run`.
        state: the `State` that it goes on from.
        mnist: what `data.load_mnist` returns.
        epochs_left: an iterator; its next value is how many epochs this command has left to
            train, of all its runs, once the next epoch is over.
    """
    (X_train, y_train), (X_test, y_test) = mnist
    print(X_train.shape, X_test.shape, y_train.shape, y_test.shape)

    model = build(run)
    model.summary()

    def after_epoch(row):
        state.history.append(row)
        state.values = [variable.value.numpy() for variable in variables_of(model)]
        with explain_failed_save(run.state_file):
            write_state(run.state_file, state)
        show_progress(state.history, run.epochs, next(epochs_left))

    restore(model, state.values)
    fit(model, X_train, y_train, range(len(state.history), run.epochs), run.seed, after_epoch)

    test_loss, test_accuracy = model.evaluate(batches(X_test, y_test), verbose=verbosity())
    authors = AUTHORS_TEST_ACCURACY[run.model]
    print(f"Test accuracy: {test_accuracy:.4f} (the author's: {authors:.4f})")

    metrics = {
        **settings(run),
        "epochs": run.epochs,
        "parameters": model.count_params(),
        "test_images": len(X_test),
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "authors_test_accuracy": authors,
        **speed(state.history, images=len(split(X_train, y_train)[0][0])),
        "interrupted_after_epochs": state.interruptions,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "devices": state.devices,
    }
    with explain_failed_save(run.directory):
        save(run, model, metrics, state.history, predict(model, X_test, y_test))
    print(f"Results: {run.directory}")


def build(run):
    """Return the network of `run`, compiled, with the weights that follow from its seed."""
    import keras

    from models import MODELS

    keras.utils.clear_session()  # a run is the same whatever was trained before it
    keras.utils.set_random_seed(run.seed)
    return MODELS[run.model]()


def fit(model, X, y, epochs, seed, after_epoch):
    """Train `model` on the first 80 % of the images and validate on the rest, as the post does.

    All randomness of an epoch follows from the seed, the epoch's number and the variables of
    the model: a run does not depend on where it was interrupted.

    Args:
        model: a compiled `keras.Model`.
        X: images, uint8 (n, 28, 28, 1).
        y: labels, float32 (n, 10).
        epochs: the `range` of the epochs to train, counted from 0.
        seed: what the order of the images follows from, a whole number from 0 to 2**32 - 1.
        after_epoch: called after each epoch with its line of `history.csv`, a dict: `epoch`
            from 1, `accuracy`, `loss`, `val_accuracy`, `val_loss`, and `seconds`, validation
            included.
    """
    import keras

    started = 0.0

    def start_clock(epoch, logs):
        nonlocal started
        started = time.perf_counter()

    def stop_clock(epoch, logs):
        seconds = round(time.perf_counter() - started, 3)
        figures = {name: float(logs[name]) for name in sorted(logs)}
        after_epoch({"epoch": epoch + 1, **figures, "seconds": seconds})

    callbacks = [keras.callbacks.LambdaCallback(start_clock, stop_clock)]
    if verbosity():
        callbacks.insert(0, keras.callbacks.ProgbarLogger())  # completes its bar before the line
    (X, y), validation = split(X, y)
    steps = math.ceil(len(X) / BATCH_SIZE)
    # Ten batches for each call into TensorFlow, or fewer, so that none crosses an epoch's end.
    model.steps_per_execution = math.gcd(steps, 10)
    model.fit(
        shuffled_batches(X, y, seed, epochs),
        steps_per_epoch=steps,
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        validation_data=batches(*validation),
        shuffle=False,  # `shuffled_batches` does it
        callbacks=callbacks,
        verbose=verbosity(),
    )


def predict(model, X, y):
    """Return a dict for each image: its number, its label and what `model` takes it for."""
    digits = model.predict(batches(X, y), verbose=0).argmax(axis=1)
    pairs = enumerate(zip(y.argmax(axis=1), digits, strict=True))
    return [{"image": i, "label": label, "prediction": digit} for i, (label, digit) in pairs]


def save(run, model, metrics, history, predictions):
    """Leave the files of a finished run in its directory, then drop its state.

    They are written elsewhere, brought to the disk and then appear all at once: whatever ends
    the process or the machine, there is a whole state or there are whole results.
    """
    from plot import plot_accuracy, plot_errors, write_run

    new = run.unfinished / "results"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    write_run(new, metrics, history, predictions)
    model.save(new / "model.keras")
    plot_accuracy(new)
    plot_errors(new)
    for path in (*new.iterdir(), new):
        sync(path)
    new.rename(run.directory)
    sync(run.directory.parent)
    shutil.rmtree(run.unfinished)


def sync(path):
    """Bring a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def speed(history, images):
    """Return the seconds of an epoch, validation included, and the images per second."""
    seconds = [row["seconds"] for row in history]
    median = statistics.median(seconds)
    return {
        "median_seconds_per_epoch": round(median, 3),
        "mean_seconds_per_epoch": round(statistics.mean(seconds), 3),
        "images_per_second": round(images / median, 1),
    }


def verbosity():
    """Return Keras's `verbose`: its bar in a terminal, nothing in a file."""
    return 1 if sys.stdout.isatty() else 0


def show_progress(history, epochs, epochs_left):
    """Print the time left for all runs; where there is no bar, the epoch's figures as well."""
    last = history[-1]
    parts = []
    if not verbosity():
        parts.append(f"Epoch {last['epoch']}/{epochs}")
        parts += [f"{name}: {last[name]:.4f}" for name in last if name not in ("epoch", "seconds")]
        parts.append(f"{last['seconds']:.0f} s")
    if epochs_left:
        pace = statistics.median(row["seconds"] for row in history[-5:])
        parts.append(f"time left: about {timedelta(seconds=round(pace * epochs_left))}")
    if parts:
        print(" - ".join(parts))


# What a run is, and where it stands


@dataclass(frozen=True)
class Run:
    """One network trained for so many epochs from one seed, and the directory of its results."""

    model: str
    epochs: int
    seed: int
    directory: Path

    @property
    def unfinished(self):
        """The directory of what is needed until the results are there, beside theirs."""
        return self.directory.with_name(f"{self.directory.name}.unfinished")

    @property
    def state_file(self):
        """The file of its `State`."""
        return self.unfinished / "state.npz"


@dataclass
class State:
    """Where a run stands after an epoch: all that the next one follows from.

    Keras's own BackupAndRestore (3.15.1) keeps less: not the history, not the state of the
    dropout's generator, not what run it is of. And it keeps the weights and the number of the
    epoch in two files, so that a kill between them trains an epoch twice.
    """

    identity: dict  # what `identity` returns
    devices: list  # what `device` returned, where the epochs were trained
    interruptions: list  # after how many epochs it was interrupted, each time
    history: list  # the lines of history.csv
    values: list  # the arrays of `variables_of(model)`; empty before the first epoch


def settings(run):
    """Return what the outcome of a run follows from, besides the network and the machine."""
    return {
        "model": run.model,
        "seed": run.seed,
        "tensorflow": importlib.metadata.version("tensorflow"),
        "keras": importlib.metadata.version("keras"),
        "TF_ENABLE_ONEDNN_OPTS": os.environ["TF_ENABLE_ONEDNN_OPTS"],
        "ONEDNN_MAX_CPU_ISA": os.environ["ONEDNN_MAX_CPU_ISA"],
        "batch_size": BATCH_SIZE,
        "validation_split": VALIDATION_SPLIT,
    }


def identity(run):
    """Return the settings of a run and the configuration of its network, as one flat dict."""
    model = build(run)
    network = {"network": model.get_config(), "compilation": model.get_compile_config()}
    return flat({**settings(run), **network})


def identity_of_results(run):
    """Return the same, read from the results of a finished run.

    Raises:
        OSError, ValueError, KeyError: they are not there, or not whole.
    """
    metrics = json.loads((run.directory / "metrics.json").read_text())
    with zipfile.ZipFile(run.directory / "model.keras") as file:
        config = json.loads(file.read("config.json"))
    network = {"network": config["config"], "compilation": config["compile_config"]}
    return flat({**{name: metrics.get(name) for name in settings(run)}, **network})


def flat(value, path=""):
    """Return nested dicts and lists as one dict: the path of each value, and the value."""
    if isinstance(value, dict):
        # Keras numbers objects that are shared in a saved model: no part of the network.
        items = [item for item in value.items() if item[0] != "shared_object_id"]
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    return {
        name: leaf
        for key, part in items
        for name, leaf in flat(part, f"{path}.{key}" if path else key).items()
    }


def differences(found, here):
    """Name, in one line, where two identities differ; the empty string if nowhere."""
    names = [name for name in {**here, **found} if found.get(name) != here.get(name)]
    parts = [f"{name} is {found.get(name)} in it and {here.get(name)} here" for name in names]
    more = [f"{len(parts) - 3} more"] if len(parts) > 3 else []
    return ", ".join(parts[:3] + more)


def starting_state(run):
    """Return the `State` that `run` goes on from; exit with one line if it is not its own."""
    here = State(identity(run), [device()], [], [], [])
    try:
        state = read_state(run.state_file)
    except FileNotFoundError:
        return here
    except ValueError as error:
        sys.exit(f"train.py: {run.state_file} {error}; {TO_START_OVER}")
    different = differences(state.identity, here.identity)
    if different:
        sys.exit(f"train.py: {run.state_file} is of another run: {different}; {TO_START_OVER}")
    if len(state.history) > run.epochs:
        different = f"has {len(state.history)} epochs and this run {run.epochs}"
        sys.exit(f"train.py: {run.state_file} {different}; {TO_START_OVER}")
    state.interruptions.append(len(state.history))
    print(f"{run.model}: resuming after epoch {len(state.history)} of {run.epochs}")
    if state.devices[-1:] != here.devices:
        print(f"{run.model}: begun on {', '.join(state.devices)}: the last bits may differ")
        state.devices += here.devices
    return state


def write_state(path, state):
    """Replace the state file at `path`, which at every moment is a whole one, old or new.

    Raises:
        OSError: the state could not be written; the earlier one is untouched.
    """
    about = {name: value for name, value in vars(state).items() if name != "values"}
    values = {str(i): value for i, value in enumerate(state.values)}
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, about=json.dumps(about), **values)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_state(path):
    """Read the `State` that `write_state` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged, or not one of `write_state`.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            values = [arrays[str(i)] for i in range(len(arrays.files) - 1)]
        return State(**about, values=values)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever NumPy, zipfile and json make of a damaged file
        raise ValueError(f"is no whole state of a run ({type(error).__name__}: {error})") from error


def variables_of(model):
    """Return all variables of `model`: weights, dropout's generators, the optimizer's."""
    model.optimizer.build(model.trainable_variables)
    return model.variables + model.optimizer.variables


def restore(model, values):
    """Give the variables of `model` the `values` of a `State`, if it has any."""
    if values:
        for variable, value in zip(variables_of(model), values, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def explain_failed_save(path):
    """End the program with one line if `path` cannot be written, on a full disk above all."""
    try:
        yield
    except OSError as error:
        sys.exit(
            f"train.py: cannot save {path}: {error.strerror or error}; "
            f"when that is mended, {GOES_ON}"
        )


@contextlib.contextmanager
def lock(run):
    """Keep other processes from training `run`; the lock goes with this one, however it ends."""
    run.unfinished.mkdir(exist_ok=True)
    with open(run.unfinished / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"train.py: another process is training {run.directory}")
        yield


def finished(run):
    """Tell whether `run` is finished, and print so; exit with one line if it has no room to be."""
    if not run.directory.exists():
        return False
    try:
        different = differences(identity_of_results(run), identity(run))
    except Exception as error:  # whatever zipfile and json make of damaged files
        reason = f"is no finished run ({type(error).__name__}: {error})"
        sys.exit(f"train.py: {run.directory} {reason}; move it away")
    shutil.rmtree(run.unfinished, ignore_errors=True)  # a kill may have left it beside the results
    under = f" under other settings ({different})" if different else ""
    print(f"{run.directory} is finished{under}; to train it anew, move it away")
    return True


# The machine


def device():
    """Return the GPU, or the processor and how many of its cores may be used.

    The last bits of a result may depend on it.
    """
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        gpu = tf.config.get_visible_devices("GPU")[0]
        return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores left by taskset or Slurm
    return f"{name}, {len(affinity(0)) if affinity else os.cpu_count()} cores"


def start_tensorflow():
    """Import TensorFlow for a run: by the project's settings, without its greetings.

    The networks are the same whatever a user's own settings say: Keras is shown no keras.json
    (another backend, channels_first, float16 or another epsilon would change them) and none of
    the KERAS_ variables (KERAS_MAX_EPOCHS would cut a run short).
    """
    for name in [name for name in os.environ if name.startswith("KERAS_")]:
        del os.environ[name]
    os.environ["KERAS_HOME"] = os.devnull
    # By itself TensorFlow turns it on only where there is AVX-512 VNNI or BF16, AVX-VNNI or AMX.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # The same bits where there is AVX-512 as where there is none.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    # TensorFlow 2.21 logs a dozen lines to file descriptor 2 before this counts.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        import tensorflow as tf

        tf.config.list_logical_devices()
    except OSError as error:  # its import wants a temporary directory with room
        sys.exit(f"train.py: cannot start TensorFlow: {error}")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


# The command line


def main(argv=None):
    """Train what the command line asks for, one run after the other.

    Args:
        argv: the arguments, a list of strings; by default those of the process.

    Raises:
        SystemExit: something is wrong, told in one line; the exit code is 1, or 2 for a
            wrong argument.
    """
    runs = parse_arguments(argv)
    with contextlib.ExitStack() as locks:
        for run in runs:
            if run.unfinished.exists() or not run.directory.exists():
                locks.enter_context(lock(run))
        try:
            mnist = load_mnist()
        except (OSError, ValueError) as error:
            sys.exit(f"train.py: {error}")
        start_tensorflow()
        runs = [run for run in runs if not finished(run)]
        if runs:
            print(f"Device: {device()}")
        # All that could end the runs is read now, not when the first of them is over.
        states = {run: starting_state(run) for run in runs}
        total = sum(run.epochs - len(state.history) for run, state in states.items())
        epochs_left = itertools.count(total - 1, -1)
        for run, state in states.items():
            train(run, state, mnist, epochs_left)


def parse_arguments(argv):
    """Parse the command line; return a list of one `Run` for each model."""
    parser = argparse.ArgumentParser("train.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        type=model_name,
        help=f"{', '.join(AUTHORS_TEST_ACCURACY)} (default: the post's two, the first and second)",
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
        type=writable_directory,
        default="results",
        help="where each run gets a directory of its own (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    suffix = f"{options.epochs}epochs-seed{options.seed}"
    return [
        Run(name, options.epochs, options.seed, options.output / f"{name}-{suffix}")
        for name in dict.fromkeys(options.models or POST_MODELS)
    ]


def model_name(text):
    """Parse the name of a model."""
    if text not in AUTHORS_TEST_ACCURACY:
        known = ", ".join(AUTHORS_TEST_ACCURACY)
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


def writable_directory(text):
    """Parse the name of a directory, and make it if it is not there."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=text).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write to {text}: {error.strerror}") from error
    return Path(text)


def stop_at_once_on_signals():
    """Make Ctrl-C and SIGTERM stop with one line and exit code 130 or 143.

    Nothing is cleaned up, and need not be: a run survives SIGKILL just the same.
    """
    stderr = os.dup(2)  # a signal may come while `start_tensorflow` has it redirected

    def stop(number, frame):
        line = f"stopped by {signal.Signals(number).name}; {GOES_ON}\n"
        os.write(stderr, ("\n" + line if os.isatty(1) else line).encode())
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # so it is for `train.py &` in a script
            signal.signal(number, stop)


if __name__ == "__main__":
    stop_at_once_on_signals()
    sys.stdout.reconfigure(line_buffering=True)
    try:
        with sys.stdout:  # closed here, a full disk or a closed pipe under it is told here
            main()
    except OSError as error:
        sys.exit(f"train.py: stopped by {error}; {GOES_ON}")
