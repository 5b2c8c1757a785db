"""What a run is, the files that it leaves, and where it stands until it is finished."""

import base64
import contextlib
import csv
import hashlib
import io
import json
import marshal
import math
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

import numpy as np

from data import BATCH_SIZE, VALIDATION_SPLIT
from machine import (
    LOADED_CODE,
    RunError,
    changed_files,
    device,
    environment,
    locked,
    replace,
    sync,
    versions,
)

# In the post, and for `deep_cnn` in the notebook of the author's repository (October 2017).
AUTHORS_TEST_ACCURACY = {
    "deep_cnn_advanced": 0.9942,
    "deep_cnn_advanced_nin": 0.9914,
    "deep_cnn": 0.9368,
}
GOES_ON = "the same command goes on after the last finished epoch"
TO_START_OVER = "to start this run over, move that file away"
BESIDE_IT = "to train this one beside it, choose another --output"


@dataclass(frozen=True)
class Run:
    """One network trained for so many epochs from one seed, and the directory of its results."""

    model: str  # a key of `models.MODELS`
    epochs: int
    seed: int
    directory: Path
    rules: str = "today"  # a key of `models.RULES`

    @property
    def authors_test_accuracy(self):
        """The author's test accuracy of this network, None if it is not the author's."""
        return AUTHORS_TEST_ACCURACY.get(self.model)

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

    @property
    def lock_file(self):
        """The file that is locked while a process trains it."""
        return self.directory.with_name(f"{self.directory.name}.lock")


# What the outcome of a run follows from


def settings(run):
    """Return what the outcome follows from besides network, code and machine: a dict for JSON."""
    return {
        "model": run.model,
        "rules": run.rules,
        "seed": run.seed,
        **versions(),
        "environment": environment(),
        "batch_size": BATCH_SIZE,
        "validation_split": VALIDATION_SPLIT,
    }


def configuration_of(model):
    """Return what a network is made of and how it is compiled, as nested dicts and lists."""
    network = model.get_config()
    if "layers" not in network:  # of a subclass of `keras.Model`
        layers = [{"class": type(layer).__name__, **layer.get_config()} for layer in model.layers]
        network = {**network, "layers": layers}
    return without_places({"network": network, "compilation": model.get_compile_config()})


def without_places(value):
    """Return a configuration whose lambdas are what they compute, wherever they are written.

    Keras (3.15.1) writes a lambda as its marshalled code, in base64, and that has the names of
    the file and of the function, and the numbers of the lines.
    """
    if isinstance(value, dict):
        return {name: without_places(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(part) for part in value]
    if isinstance(value, str) and value.endswith("\n"):  # as no other value does
        with contextlib.suppress(ValueError, EOFError, TypeError, AttributeError):  # is no code
            return what_it_computes(marshal.loads(base64.b64decode(value)))
    return value


def what_it_computes(code):
    """Return a code object as text, without the place where it is written."""
    constants = [
        what_it_computes(constant) if isinstance(constant, CodeType) else constant
        for constant in code.co_consts
        # Python 3.10 has the place of an inner function here, too.
        if not (isinstance(constant, str) and "<locals>" in constant)
    ]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def digest_of(model):
    """Return the SHA-256 of the configuration of a network, in hexadecimal."""
    return hashlib.sha256(json.dumps(configuration_of(model)).encode()).hexdigest()


def flat(value, path=""):
    """Return nested dicts and lists as one dict: the path of each value, and the value.

    In their own order, in which the class of a layer comes first: `keras.tree` sorts the names.
    """
    if not isinstance(value, dict | list | tuple):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = (flat(part, f"{path}.{key}" if path else key) for key, part in items)
    return {name: leaf for part in parts for name, leaf in part.items()}


def differences(there, here):
    """Name, in one line, where two flat dicts differ; the empty string if nowhere."""
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    parts = [f"{n}: {short(there.get(n))} there, {short(here.get(n))} here" for n in names[:3]]
    return ", ".join(parts + [f"{len(names) - 3} more"] * (len(names) > 3))


def short(value):
    """Return a value as text of at most 60 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


# Where a run stands


@dataclass
class State:
    """Where a run stands after an epoch: all that the next one follows from.

    Keras's own BackupAndRestore (3.15.1) keeps less: not the history, not the state of the
    dropout's generator, not what run it is of. And by itself (without `double_checkpoint`) it
    keeps the weights and the number of the epoch in two files, so that a kill between them trains
    an epoch twice.
    """

    identity: dict  # the settings of the run and the configuration of its network, flat
    devices: list = field(default_factory=list)  # what `device` returned, where it was trained
    code: list = field(default_factory=list)  # what `digests_of_code` returned, when it was
    interruptions: list = field(default_factory=list)  # after how many epochs, each time
    history: list = field(default_factory=list)  # the lines of history.csv
    values: list = field(default_factory=list)  # of `values_of`; none before the first epoch


def starting_state(run, model):
    """Return the `State` that `run` goes on from, and say so if it is not the beginning.

    Args:
        run: the `Run`, locked.
        model: its network, built and compiled.

    Raises:
        RunError: there is a state, and it cannot be read or is not this run's.
    """
    identity = {**flat(settings(run)), **flat(configuration_of(model))}
    here = State(identity, [device()], [LOADED_CODE])
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
    if different.startswith(("network.", "compilation.")):  # its first, so all of them
        other = f"is {of_another_network(run)}; {TO_START_OVER}. Different: {different}"
        raise RunError(f"{run.state_file} {other}")
    if different:
        other = f"is of another run ({different}); {BESIDE_IT}; {TO_START_OVER}"
        raise RunError(f"{run.state_file} {other}")
    done = len(state.history)
    if done > run.epochs:
        different = f"has {done} epochs and this run {run.epochs}"
        raise RunError(f"{run.state_file} {different}; {TO_START_OVER}")
    state.interruptions.append(done)
    print(f"{run.model}: resuming after epoch {done} of {run.epochs}")
    if state.devices[-1:] != here.devices:
        print(f"{run.model}: begun on {', '.join(state.devices)}: the last bits may differ")
        state.devices += here.devices
    if state.code[-1:] != here.code:
        changed = changed_files(state.code[-1], LOADED_CODE)
        print(f"{run.model}: the code has changed since epoch {done}: {changed}")
        state.code += here.code
    return state


def of_another_network(run):
    """Tell that what is there is of another network than `run`, and how to train that one, too."""
    return (
        f"of another network than {run.model} in models.py is now; {BESIDE_IT}, or give it a name "
        "of its own in MODELS"
    )


def write_state(run, state):
    """Replace the state file of `run`, which at every moment is a whole one, old or new.

    Raises:
        RunError: the state could not be written; the earlier one is untouched.
    """
    path = run.state_file
    temporary = path.with_name(f"{path.name}.tmp")
    about = {name: value for name, value in vars(state).items() if name != "values"}
    values = {str(i): value for i, value in enumerate(state.values)}
    with explain_failed_save(path):
        try:
            with open(temporary, "wb") as file:
                np.savez(file, about=json.dumps(about), **values)
            sync(temporary)
            replace(temporary, path)
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
    if not model.optimizer.built:  # twice, and a mixed-precision one has two variables more
        model.optimizer.build(model.trainable_variables)
    return model.variables + model.optimizer.variables


def values_of(model):
    """Return the values of all variables of `model`, arrays of the types of NumPy.

    What these leave out, bfloat16 and the types of 8 bits, is float32 in them, which holds it.
    """
    values = [np.asarray(variable.value) for variable in variables_of(model)]
    return [value.astype("float32") if value.dtype.kind == "V" else value for value in values]


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


def lock_unfinished(runs, locks):
    """Lock the runs that are not finished; return a dict of the metrics of the others.

    Which these are is decided here, once: what becomes of results meanwhile changes nothing.

    Args:
        runs: a list of `Run`s.
        locks: the `contextlib.ExitStack` that holds the locks.

    Raises:
        RunError: another process trains one of them, or what is in the place of results is none.
    """
    finished = {}
    for run in runs:
        if not run.directory.exists():
            locks.enter_context(locked(run.lock_file, f"training {run.directory}"))
        if run.directory.exists():  # perhaps just now, by another process
            finished[run] = results_of(run)
            remove_unfinished(run)
    return finished


def remove_unfinished(run):
    """Remove what a kill may have left beside the results, unless another process does."""
    if run.unfinished.exists():
        with contextlib.suppress(RunError), locked(run.lock_file, "removing it"):
            shutil.rmtree(run.unfinished, ignore_errors=True)


# The files of a finished run


def metrics_of(run, state, model, test):
    """Return what `metrics.json` has of a run, a dict.

    Args:
        run: the `Run`.
        state: its `State` after the last epoch.
        model: its network, trained.
        test: a dict of the test's `images`, their number, `loss` and `accuracy`.
    """
    authors = run.authors_test_accuracy
    return {
        **settings(run),
        "network_sha256": digest_of(model),
        "epochs": run.epochs,
        "parameters": model.count_params(),
        "test_images": test["images"],
        "test_loss": test["loss"] if math.isfinite(test["loss"]) else None,  # JSON has no NaN
        "test_accuracy": test["accuracy"],
        **({"authors_test_accuracy": authors} if authors else {}),
        "interrupted_after_epochs": state.interruptions,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "devices": state.devices,
        "code_sha256": state.code,
    }


def write_run(run_dir, metrics, history, predictions):
    """Write `metrics.json`, `history.csv` and `predictions.csv` into `run_dir`.

    Args:
        run_dir: the `Path` of a directory.
        metrics: a dict for JSON.
        history: a list of one dict an epoch, all with the same keys.
        predictions: a list of one dict for each test image, in their order: `image`, its
            number, `label` and `prediction`, digits, and `probability`, float32, what the
            network gave to the label.

    Raises:
        OSError: a file cannot be written.
    """
    text = json.dumps(metrics, indent=2) + "\n"
    (run_dir / "metrics.json").write_text(text, newline="\n")
    for name, rows in (("history.csv", history), ("predictions.csv", predictions)):
        with open(run_dir / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def finish(run, new):
    """Make `new`, a directory of files, the results of `run`, then drop its state.

    The files are brought to the disk and then appear all at once: whatever ends the process or
    the machine, there is a whole state or there are whole results.
    """
    for path in (*new.iterdir(), new):
        sync(path)
    replace(new, run.directory)
    sync(run.directory.parent)
    # What is open elsewhere stays, on NFS or Windows; the next start of this run removes it.
    shutil.rmtree(run.unfinished, ignore_errors=True)


def read_run(run_dir):
    """Return the metrics of a run, and its history as one list of numbers a column.

    Args:
        run_dir: the directory of the run, a `Path` or a string.

    Returns:
        A dict, what metrics.json has, and a dict of the columns of history.csv: `epoch`,
        `accuracy`, `loss`, `val_accuracy`, `val_loss`, `seconds`, a list of numbers each.

    Raises:
        OSError: a file of the run cannot be read.
        ValueError, KeyError, TypeError: a file of the run is not what `write_run` wrote.
    """
    metrics = read_metrics(run_dir)
    return metrics, read_table(Path(run_dir) / "history.csv", metrics["epochs"])


def read_metrics(run_dir):
    """Return what metrics.json of a run has, a dict; raises as `read_run`."""
    return {**json.loads((Path(run_dir) / "metrics.json").read_text())}


def read_predictions(run_dir):
    """Return the labels of the test images and what the run took them for, each int (n,).

    Args, Raises: as `read_run`.
    """
    table = read_table(Path(run_dir) / "predictions.csv", read_metrics(run_dir)["test_images"])
    return np.array(table["label"], int), np.array(table["prediction"], int)


def read_table(path, lines):
    """Return a CSV file of so many lines of numbers as one list a column; raises as `read_run`."""
    text = path.read_text()
    rows = list(csv.DictReader(text.splitlines()))
    if len(rows) != lines or not text.endswith("\n"):
        raise ValueError(f"{path} is not whole: {len(rows)} lines instead of {lines}")
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def results_of(run):
    """Return the metrics of a run whose results are there.

    Raises:
        RunError: what is in their place cannot be read, or is no finished run.
    """
    try:
        return read_run(run.directory)[0]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
        reason = f"is no finished run ({type(error).__name__}: {error})"
        raise RunError(f"{run.directory} {reason}; move it away") from error
    except OSError as error:
        raise RunError(f"cannot read {run.directory}: {error.strerror or error}") from error


def tell_finished(run, metrics, model):
    """Print that a run is finished, and whether it is the one that would be trained now.

    Args:
        run: the `Run`.
        metrics: what its metrics.json has, a dict.
        model: the network that would be trained.
    """
    here = {name: value for name, value in settings(run).items() if name in metrics}
    different = differences(flat({name: metrics[name] for name in here}), flat(here))
    code = metrics.get("code_sha256", [LOADED_CODE])[-1]
    end = "; to train it anew, move it away"
    if different:
        end = f" under other settings ({different}); {BESIDE_IT}"
    elif metrics.get("network_sha256") not in (None, digest_of(model)):
        end = f", but {of_another_network(run)}"
    elif code != LOADED_CODE:
        end = f", by other code ({changed_files(code, LOADED_CODE)}){end}"
    print(f"{run.directory} is finished{end}")
