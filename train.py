"""Train the post's two networks on MNIST, evaluate them and plot their accuracy.

`python train.py` is the post's run, `python train.py deep_cnn` that of the plain network which
the post improves on; any other network of `MODELS` in models.py is trained by its name, too.
`python train.py --help` names what can be set. TensorFlow, Keras and matplotlib are imported
in the functions that use them, so that `--help` and wrong arguments are answered at once.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

try:
    import numpy as np

    from data import BATCH_SIZE, VALIDATION_SPLIT, batches, load_mnist, shuffled_batches, split
    from machine import (
        RunError,
        device,
        environment,
        locked,
        run_as_program,
        start_tensorflow,
        sync,
    )
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(
        f"train.py: {error}; install it by {sys.executable} -m pip install -r requirements.txt"
    )

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


def train(run, state, mnist, epochs_after=0):
    """Do what the post does, with one network: build, fit, evaluate, save and plot.

    Args:
        run: the `Run`.
        state: the `State` that it goes on from.
        mnist: what `data.load_mnist` returns.
        epochs_after: how many epochs of other runs this command has to train after this run.

    Raises:
        RunError: the state or the results cannot be saved.
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
        draw_so_far(run, state.history)
        show_progress(run, state.history, epochs_after)

    restore(model, state.values)
    fit(model, X_train, y_train, range(len(state.history), run.epochs), run.seed, after_epoch)

    test = model.evaluate(batches(X_test, y_test), verbose=verbosity(), return_dict=True)
    authors = AUTHORS_TEST_ACCURACY.get(run.model)
    beside = f" (the author's: {authors:.4f})" if authors else ""
    print(f"Test accuracy: {test['accuracy']:.4f}{beside}")

    metrics = {
        **settings(run),
        "network_sha256": digest_of(model),
        "epochs": run.epochs,
        "parameters": model.count_params(),
        "test_images": len(X_test),
        "test_loss": test["loss"] if math.isfinite(test["loss"]) else None,  # JSON has no NaN
        "test_accuracy": test["accuracy"],
        **({"authors_test_accuracy": authors} if authors else {}),
        "interrupted_after_epochs": state.interruptions,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "devices": state.devices,
        "code_sha256": state.code,
    }
    with explain_failed_save(run.directory):
        save(run, model, metrics, state.history, predict(model, X_test, y_test))
    print(f"Results: {run.directory}")


def build(run):
    """Return the network of `run`, compiled, with the weights that follow from its seed.

    Raises:
        RunError: what models.py returns for its name cannot be trained here.
    """
    import keras

    from models import MODELS, under_rules

    keras.utils.clear_session()  # a run is the same whatever was trained before it
    keras.utils.set_random_seed(run.seed)
    if run.model not in MODELS:
        raise RunError(f"there is no {run.model} in MODELS of models.py")
    model = MODELS[run.model]()
    if isinstance(model, keras.Model) and not model.built:  # it has no Input
        model.build((None, 28, 28, 1))
    compilation = isinstance(model, keras.Model) and model.get_compile_config()
    if (
        not compilation
        or "accuracy" not in (compilation["metrics"] or ())
        or getattr(model, "output_shape", (None, 10)) != (None, 10)
    ):
        wanted = "a keras.Model with an output of (None, 10), compiled with metrics=['accuracy']"
        raise RunError(f"{run.model} of models.py does not return {wanted}")
    return under_rules(model, run.rules)


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
    # The post's call, argument by argument, of which the rest of this function is made:
    #
    #   model.fit(X, y, batch_size=50, validation_split=0.2, epochs=100, verbose=0)
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
    """Return a dict for each image: the columns of `predictions.csv`, as of `plot.write_run`."""
    found = model.predict(batches(X, y), verbose=0)
    labels = y.argmax(axis=1)
    return [
        {"image": i, "label": label, "prediction": p.argmax(), "probability": p[label]}
        for i, (label, p) in enumerate(zip(labels, found, strict=True))
    ]


def save(run, model, metrics, history, predictions):
    """Leave the files of a finished run in its directory, then drop its state.

    They are written elsewhere, brought to the disk and then appear all at once: whatever ends
    the process or the machine, there is a whole state or there are whole results.
    """
    from plot import plot_accuracy, plot_errors, write_run

    new = run.unfinished / "results"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(exist_ok=True)
    write_run(new, metrics, history, predictions)
    model.save(new / "model.keras")
    plot_accuracy(new)
    plot_errors(new)
    for path in (*new.iterdir(), new):
        sync(path)
    new.rename(run.directory)
    sync(run.directory.parent)
    # What is open elsewhere stays, on NFS or Windows; the next start of this run removes it.
    shutil.rmtree(run.unfinished, ignore_errors=True)


def verbosity():
    """Return Keras's `verbose`: its bar in a terminal, nothing in a file."""
    return 1 if sys.stdout.isatty() else 0


def draw_so_far(run, history):
    """Draw the accuracy of the epochs so far; that no picture can be drawn ends no run."""
    from plot import draw_accuracy

    about = {**vars(run), "authors_test_accuracy": AUTHORS_TEST_ACCURACY.get(run.model)}
    columns = {name: [row[name] for row in history] for name in history[0]}
    try:
        draw_accuracy(run.picture, about, columns)
    except Exception as error:
        print(f"cannot draw {run.picture}: {error}")


def show_progress(run, history, epochs_after):
    """Print the time left for all runs; where there is no bar, the epoch's figures as well."""
    last = history[-1]
    parts = []
    if not verbosity():
        parts.append(f"Epoch {last['epoch']}/{run.epochs}")
        parts += [f"{name}: {last[name]:.4f}" for name in last if name not in ("epoch", "seconds")]
        parts.append(f"{last['seconds']:.0f} s")
    epochs_left = run.epochs - len(history) + epochs_after
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
    rules: str = "today"  # a key of `models.RULES`

    @property
    def unfinished(self):
        """The directory of what is needed until the results are there, beside theirs."""
        return self.directory.with_name(f"{self.directory.name}.unfinished")

    @property
    def state_file(self):
        """The file of its `State`."""
        return self.unfinished / "state.npz"

    @property
    def picture(self):
        """The file of its accuracy so far."""
        return self.unfinished / "accuracy.png"


@dataclass
class State:
    """Where a run stands after an epoch: all that the next one follows from.

    Keras's own BackupAndRestore (3.15.1) keeps less: not the history, not the state of the
    dropout's generator, not what run it is of. And it keeps the weights and the number of the
    epoch in two files, so that a kill between them trains an epoch twice.
    """

    identity: dict  # the settings of the run and the configuration of its network, flat
    devices: list  # what `device` returned, where the epochs were trained
    code: list  # what `digests_of_code` returned, when they were
    interruptions: list  # after how many epochs it was interrupted, each time
    history: list  # the lines of history.csv
    values: list  # the arrays of `variables_of(model)`; empty before the first epoch


def settings(run):
    """Return what the outcome of a run follows from, besides the network and the machine."""
    return {
        "model": run.model,
        "rules": run.rules,
        "seed": run.seed,
        "tensorflow": importlib.metadata.version("tensorflow"),
        "keras": importlib.metadata.version("keras"),
        "environment": environment(),
        "batch_size": BATCH_SIZE,
        "validation_split": VALIDATION_SPLIT,
    }


def configuration_of(model):
    """Return what a network is made of and how it is compiled, as nested dicts."""
    return {"network": model.get_config(), "compilation": model.get_compile_config()}


def digest_of(model):
    """Return the SHA-256 of the configuration of a network, in hexadecimal."""
    return hashlib.sha256(json.dumps(configuration_of(model)).encode()).hexdigest()


def digests_of_code():
    """Return the SHA-256 of the files that make a result, in hexadecimal, by their names."""
    names = "models.py", "data.py", "train.py", "machine.py"
    files = {name: Path(__file__).with_name(name).read_bytes() for name in names}
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def flat(value, path=""):
    """Return nested dicts and lists as one dict: the path of each value, and the value."""
    if not isinstance(value, dict | list | tuple):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = (flat(part, f"{path}.{key}" if path else key) for key, part in items)
    return {name: leaf for part in parts for name, leaf in part.items()}


def differences(found, here):
    """Name, in one line, where two flat dicts differ; the empty string if nowhere."""
    names = [name for name in {**here, **found} if found.get(name) != here.get(name)]
    parts = [f"{name} is {found.get(name)} in it and {here.get(name)} here" for name in names]
    more = [f"{len(parts) - 3} more"] if len(parts) > 3 else []
    return ", ".join(parts[:3] + more)


def starting_state(run, model):
    """Return the `State` that `run` goes on from, and say so if it is not the beginning.

    Args:
        run: the `Run`, locked.
        model: its network, as `build` returns it.

    Raises:
        RunError: there is a state, and it cannot be read or is not this run's.
    """
    here = State(
        flat({**settings(run), **configuration_of(model)}),
        [device()],
        [digests_of_code()],
        [],
        [],
        [],
    )
    try:
        state = read_state(run.state_file)
    except FileNotFoundError:
        return here
    except OSError as error:
        reason = f"{error.strerror or error}; when that is mended, {GOES_ON}"
        raise RunError(f"cannot read {run.state_file}: {reason}") from error
    except ValueError as error:
        raise RunError(f"{run.state_file} {error}; {TO_START_OVER}") from error
    different = differences(state.identity, here.identity)
    if different:
        raise RunError(f"{run.state_file} is of another run: {different}; {TO_START_OVER}")
    if len(state.history) > run.epochs:
        different = f"has {len(state.history)} epochs and this run {run.epochs}"
        raise RunError(f"{run.state_file} {different}; {TO_START_OVER}")
    state.interruptions.append(len(state.history))
    print(f"{run.model}: resuming after epoch {len(state.history)} of {run.epochs}")
    if state.devices[-1:] != here.devices:
        print(f"{run.model}: begun on {', '.join(state.devices)}: the last bits may differ")
        state.devices += here.devices
    if state.code[-1:] != here.code:
        state.code += here.code
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
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def read_state(path):
    """Read the `State` that `write_state` wrote.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: what was read is damaged, or not of `write_state`.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            values = [arrays[str(i)] for i in range(len(arrays.files) - 1)]
        return State(**about, values=values)
    except MemoryError:
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
    """Tell in one line if `path` cannot be written, on a full disk above all."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}; when that is mended, {GOES_ON}"
        raise RunError(f"cannot save {path}: {reason}") from error


def results_of(run):
    """Return the metrics of a run whose results are there.

    Raises:
        RunError: what is in their place cannot be read, or is no finished run.
    """
    from plot import read_run

    try:
        return read_run(run.directory)[0]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
        reason = f"is no finished run ({type(error).__name__}: {error})"
        raise RunError(f"{run.directory} {reason}; move it away") from error
    except OSError as error:
        raise RunError(f"cannot read {run.directory}: {error.strerror or error}") from error


def tell_finished(run, metrics, model):
    """Print that a run is finished, and whether it is the one that would be trained now."""
    here = {name: value for name, value in settings(run).items() if name in metrics}
    different = differences(flat({name: metrics[name] for name in here}), flat(here))
    end = "; to train it anew, move it away"
    if different:
        end = f" under other settings ({different}); to train it beside, choose another --output"
    if metrics.get("network_sha256") not in (None, digest_of(model)):
        end = (
            f", but of another network than {run.model} in models.py is now; to train this one "
            "beside it, give it a name of its own in MODELS, or choose another --output"
        )
    print(f"{run.directory} is finished{end}")


# The command line


def main(argv=None):
    """Train what the command line asks for, one run after the other.

    Args:
        argv: the arguments, a list of strings; by default those of the process.

    Raises:
        SystemExit: something is wrong, told in one line; the exit code is 1, or 2 for a
            wrong argument.
    """
    try:
        train_unfinished(parse_arguments(argv))
    except RunError as error:
        sys.exit(f"train.py: {error}")


def train_unfinished(runs):
    """Train those of the `runs` that are not finished, each under its lock."""
    with contextlib.ExitStack() as locks:
        finished = lock_unfinished(runs, locks)
        try:
            mnist = load_mnist()
        except (OSError, ValueError) as error:
            raise RunError(error) from error
        start_tensorflow()
        # All that could end the runs is looked at now, not when the first of them is over.
        models = {run: build(run) for run in runs}
        for run, metrics in finished.items():
            tell_finished(run, metrics, models[run])
        states = {run: starting_state(run, models[run]) for run in runs if run not in finished}
        if states:
            print(f"Device: {device()}")
        for run in states:
            with explain_failed_save(run.unfinished):
                run.unfinished.mkdir(exist_ok=True)
                sync(run.unfinished.parent)
            print(f"{run.model}: accuracy so far, after every epoch: {run.picture}")
        epochs_after = sum(run.epochs - len(state.history) for run, state in states.items())
        for run, state in states.items():
            epochs_after -= run.epochs - len(state.history)
            train(run, state, mnist, epochs_after)


def lock_unfinished(runs, locks):
    """Lock the runs that are not finished; return a dict of the metrics of the others.

    Which these are is decided here, once: what becomes of results meanwhile changes nothing.
    """
    finished = {}
    for run in runs:
        with contextlib.ExitStack() as lock:
            file = run.unfinished.with_suffix(".lock")
            lock.enter_context(locked(file, f"training {run.directory}"))
            if run.directory.exists():
                finished[run] = results_of(run)
                shutil.rmtree(run.unfinished, ignore_errors=True)  # a kill may have left it
            else:
                locks.push(lock.pop_all())
    return finished


def parse_arguments(argv):
    """Parse the command line; return a list of one `Run` for each model."""
    parser = argparse.ArgumentParser("train.py", description=__doc__.splitlines()[0])
    known = ", ".join(AUTHORS_TEST_ACCURACY)
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help=f"{known}, or your own in models.py (default: the post's two, the first and second)",
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
        help="what weights, dropout and the order of the images follow from (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=writable_directory,
        default="results",
        help="where each run gets a directory of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--rules",
        default="today",
        help="train an author's network by the rules of Keras 2.0.8: 2017, 2017-loss, 2017-epsilon "
        "(default: %(default)s)",
    )
    # Of `--batch-size 20` the option is unknown, not the model 20.
    options, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    names = list(dict.fromkeys(options.models or POST_MODELS))
    if options.rules != "today" or not set(names) <= set(AUTHORS_TEST_ACCURACY):
        start_tensorflow()
        from models import MODELS, RULES

        for kind, found, known in (("model", names, MODELS), ("rules", [options.rules], RULES)):
            for name in found:
                if name not in known:
                    parser.error(f"unknown {kind} {name!r}; known are {', '.join(known)}")
    if options.rules != "today" and not set(names) <= set(AUTHORS_TEST_ACCURACY):
        parser.error("--rules are for the author's networks")
    rules = "" if options.rules == "today" else f"-{options.rules}"
    suffix = f"{rules}-{options.epochs}epochs-seed{options.seed}"
    return [
        Run(name, options.epochs, options.seed, options.output / f"{name}{suffix}", options.rules)
        for name in names
    ]


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


if __name__ == "__main__":
    run_as_program(main, remark=GOES_ON)
