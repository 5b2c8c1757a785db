"""Train the post's two networks on MNIST, evaluate them and plot their accuracy.

`python train.py` is the post's run, `python train.py deep_cnn` that of the plain network which
the post improves on; any other network of `MODELS` in models.py is trained by its name, too.
`python train.py --help` names what can be set. TensorFlow, Keras and Matplotlib are imported
in the functions that use them, so that `--help` and wrong arguments are answered at once.
"""

import argparse
import contextlib
import io
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # also where PYTHONSAFEPATH is set

import machine

with machine.explain_missing_package():
    import numpy as np

    import runs
    from data import BATCH_SIZE, batches, load_mnist, shuffled_batches, split
    from machine import RunError

POST_EPOCHS = 100
POST_MODELS = ("deep_cnn_advanced", "deep_cnn_advanced_nin")
# What improves `deep_cnn` in the post, one at a time.
IMPROVED_MODELS = ("deep_cnn_he", "deep_cnn_bn", "deep_cnn_dropout")


def train(run, state, mnist, epochs_after=0):
    """Do what the post does, with one network: build, fit, evaluate, predict, save and plot.

    Args:
        run: the `runs.Run`.
        state: the `runs.State` that it goes on from.
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
        state.values = runs.values_of(model)
        runs.write_state(run, state)
        draw_so_far(run, state.history)
        show_progress(run, state.history, epochs_after)

    runs.restore(model, state.values)
    runs.write_state(run, state)  # so that it knows of an interruption in the epoch that comes
    fit(model, X_train, y_train, range(len(state.history), run.epochs), run.seed, after_epoch)

    test = figures(model.evaluate(batches(X_test, y_test), verbose=verbosity(), return_dict=True))
    authors = run.authors_test_accuracy
    beside = f" (the author's: {authors:.4f})" if authors else ""
    print(f"Test accuracy: {test['accuracy']:.4f}{beside}")

    save(run, state, model, {"images": len(X_test), **test}, predict(model, X_test, y_test))
    print(f"Results: {run.directory}")


def build(run):
    """Return the network of `run`, compiled, with the weights that follow from its seed.

    Raises:
        RunError: what models.py has under its name builds no network to train.
    """
    import keras

    from models import MODELS, under_rules

    keras.utils.clear_session()  # a run is the same whatever was trained before it
    keras.utils.set_random_seed(run.seed)
    policy = keras.config.dtype_policy()
    function = MODELS.get(run.model)
    if not callable(function) or isinstance(function, keras.Model):
        raise RunError(
            f"MODELS[{run.model!r}] of models.py is no function that builds a network: "
            "write its name, without parentheses"
        )
    model = function()
    keras.config.set_dtype_policy(policy)  # a function may have set it, for its network alone
    if not isinstance(model, keras.Model):
        found = "nothing" if model is None else f"a {type(model).__name__}"
        raise RunError(
            f"{run.model} of models.py returns {found}: `return compiled(...)` is missing"
        )
    if not model.compiled:
        raise RunError(f"{run.model} of models.py is not compiled: return compiled(...)")
    if not model.built and isinstance(model, keras.Sequential):  # it has no Input
        model.build((None, 28, 28, 1))
    elif not model.built:  # a subclass, whose `build` makes no weights
        with explain_error(f"{run.model} of models.py cannot be trained"):
            model(np.zeros((1, 28, 28, 1), "uint8"))
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
        after_epoch({"epoch": epoch + 1, **figures(logs), "seconds": seconds})

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


def figures(logs):
    """Return those of Keras's figures that are single numbers, `acc` under the name `accuracy`."""
    names = {"acc": "accuracy", "val_acc": "val_accuracy"}
    return {names.get(n, n): float(logs[n]) for n in sorted(logs) if np.ndim(logs[n]) == 0}


def predict(model, X, y):
    """Return a dict for each image: the columns of `predictions.csv`, as of `runs.write_run`."""
    found = probabilities(model, model.predict(batches(X, y), verbose=0))
    labels = y.argmax(axis=1)
    return [
        {"image": i, "label": label, "prediction": p.argmax(), "probability": p[label]}
        for i, (label, p) in enumerate(zip(labels, found, strict=True))
    ]


def probabilities(model, outputs):
    """Return outputs of `model` as float32, through a softmax if its loss does that, too."""
    outputs = np.asarray(outputs, "float32")
    if getattr(model.loss, "from_logits", False):
        outputs = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        outputs /= outputs.sum(axis=-1, keepdims=True)
    return outputs


def save(run, state, model, test, predictions):
    """Leave the files and pictures of a finished run in its directory, then drop its state."""
    from plot import plot_accuracy, plot_errors

    new = run.unfinished / "results"
    with runs.explain_failed_save(run.directory):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        metrics = runs.metrics_of(run, state, model, test)
        runs.write_run(new, metrics, state.history, predictions)
        model.save(new / "model.keras")
        try_to_draw(plot_accuracy, new)
        try_to_draw(plot_errors, new)
        runs.finish(run, new)


def verbosity():
    """Return Keras's `verbose`: its bar in a terminal, nothing in a file."""
    return 1 if sys.stdout.isatty() else 0


def draw_so_far(run, history):
    """Draw the accuracy of the epochs so far."""
    from plot import draw_accuracy

    about = {**vars(run), "authors_test_accuracy": run.authors_test_accuracy}
    columns = {name: [row[name] for row in history] for name in history[0]}
    try_to_draw(draw_accuracy, run.picture, about, columns)


def try_to_draw(plot, path, *arguments):
    """Call `plot`; that a picture cannot be drawn ends no run."""
    try:
        plot(path, *arguments)
    except Exception as error:
        print(f"cannot draw {path}: {error}")


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


# What could end a run is looked for before the first of a command is trained


def try_out(run, mnist):
    """Do what `train` does, on ten images and a copy of the network, and throw all away.

    Raises:
        RunError: the network cannot be trained, saved, or restored after an interruption.
    """
    (X, y), _ = mnist
    X, y = X[:10], y[:10]
    subject = f"{run.model} of models.py"
    copy, again = build(run), build(run)
    rows = []
    with explain_error(f"{subject} cannot be trained"), contextlib.redirect_stdout(io.StringIO()):
        mistake = mistake_in(copy, again, X)
        if not mistake:
            # In a tenth of the time that TensorFlow takes to make a graph of Keras's own classes.
            copy.run_eagerly = type(copy).__module__.startswith("keras.")
            fit(copy, X, y, range(1), run.seed, rows.append)
            copy.run_eagerly = False
            copy.make_test_function(force=True)
            copy.evaluate(batches(X, y), verbose=0)  # as a graph, which may refuse what has passed
            if "accuracy" not in rows[0]:
                mistake = "measures no accuracy: compile it with metrics=['accuracy']"
    if mistake:
        raise RunError(f"{subject} {mistake}")
    with explain_error(f"{subject} cannot be saved"), tempfile.TemporaryDirectory() as directory:
        copy.save(Path(directory, "model.keras"))
        trial = runs.Run(run.model, 1, run.seed, Path(directory, "trial"))
        trial.unfinished.mkdir()
        runs.write_state(trial, runs.State({}, values=runs.values_of(copy)))
        runs.restore(again, runs.read_state(trial.state_file).values)
    pairs = zip(runs.values_of(copy), runs.values_of(again), strict=True)
    if any(one.tobytes() != other.tobytes() for one, other in pairs):
        raise RunError(f"{subject} cannot go on after an interruption: its variables change")


def mistake_in(model, again, X):
    """Name the mistake in a network, or return None if there is none that is known.

    Args:
        model: the network, a compiled `keras.Model`.
        again: the same, built once more.
        X: images, uint8 (n, 28, 28, 1).
    """
    if set(map(id, model.variables)) & set(map(id, again.variables)):
        return "builds its layers outside of its function: their weights follow from no seed"
    if runs.digest_of(model) != runs.digest_of(again):
        return "is another each time that it is built"
    takes = getattr(model, "input_shape", (None, *X.shape[1:]))
    if len(takes) != 4 or any(n not in (None, m) for n, m in zip(takes, X[:1].shape, strict=True)):
        return f"takes inputs of {takes[1:]}, and images are (28, 28, 1): Input(shape=(28, 28, 1))"
    gives = np.asarray(model(X, training=False)).astype("float32")
    if gives.ndim > 2:
        return f"gives {gives.shape[1:]} for an image: Flatten() is missing before its last layer"
    if gives.shape != (len(X), 10):
        return f"gives {gives.shape[1:]} for an image: its last layer has to be of 10 digits"
    if "sparse" in str(model.get_compile_config()["loss"]).lower():
        return "has a sparse loss, and the labels here are one-hot: categorical_crossentropy"
    found = probabilities(model, gives)
    if found.min() < 0 or np.abs(found.sum(axis=1) - 1).max() > 0.05:  # float16 is coarse
        return (
            "gives no probabilities: end it with activation='softmax', or compile it with a "
            "loss of from_logits=True"
        )
    return None


@contextlib.contextmanager
def explain_error(what):
    """Tell in one line what else goes wrong in here, in Keras or in a layer of one's own."""
    try:
        yield
    except Exception as error:
        text = re.sub(r"\x1b\[\d*m|\s+", " ", str(error))  # Keras prints some of it in bold
        raise RunError(f"{what}: {type(error).__name__}: {text[:240]}") from error


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
        asked_for = parse_arguments(argv)
        with contextlib.ExitStack() as locks:
            finished = runs.lock_unfinished(asked_for, locks)
            mnist = load_mnist()
            machine.start_tensorflow()
            states = look_at(asked_for, finished, mnist)
            epochs_after = sum(run.epochs - len(state.history) for run, state in states.items())
            for run, state in states.items():
                epochs_after -= run.epochs - len(state.history)
                train(run, state, mnist, epochs_after)
    except RunError as error:
        sys.exit(f"train.py: {error}")


def look_at(asked_for, finished, mnist):
    """Tell what is finished, and return a dict of the states that the other runs go on from.

    All that could end a run is looked at now, not when the first of them is over.

    Raises:
        RunError: a run cannot be begun, or cannot go on.
    """
    networks = {run: build(run) for run in asked_for}
    machine.refuse_edited_code()  # models.py was imported just now
    for run, metrics in finished.items():
        runs.tell_finished(run, metrics, networks[run])
    states = {
        run: runs.starting_state(run, networks[run]) for run in asked_for if run not in finished
    }
    for run in states:
        try_out(run, mnist)
    if states:
        print(f"Device: {machine.device()}")
    for run in states:
        with runs.explain_failed_save(run.unfinished):
            run.unfinished.mkdir(exist_ok=True)
            machine.sync(run.unfinished.parent)
        print(f"{run.model}: accuracy so far, after every epoch: {run.picture}")
    return states


def parse_arguments(argv):
    """Parse the command line; return a list of one `runs.Run` for each model."""
    parser = argparse.ArgumentParser("train.py", description="Train networks on MNIST.")
    ours = (*runs.AUTHORS_TEST_ACCURACY, *IMPROVED_MODELS)
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help=f"{', '.join(ours)}, or your own in models.py (default: the post's two, the first "
        "and second)",
    )
    parser.add_argument(
        "--epochs",
        metavar="N",
        type=int,
        default=POST_EPOCHS,
        help="how many epochs to train (default: %(default)s, as in the post)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="what weights, dropout and the order of the images follow from (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default="results",
        help="where each run gets a directory of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--rules",
        default="today",
        help="train one of the networks named above by the rules of Keras 2.0.8: 2017, 2017-loss, "
        "2017-epsilon (default: %(default)s)",
    )
    # Of `--batch-size 20` the option is unknown, not the model 20.
    options, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for name, low, high in (("epochs", 1, 10**6), ("seed", 0, 2**32 - 1)):
        if not low <= (number := getattr(options, name)) <= high:
            parser.error(f"--{name} goes from {low} to {high}, and {number} is not in it")
    names = list(dict.fromkeys(options.models or POST_MODELS))
    if options.rules != "today" or not set(names) <= set(ours):
        machine.start_tensorflow()
        from models import MODELS, RULES

        for kind, found, known in (("model", names, MODELS), ("rules", [options.rules], RULES)):
            for name in found:
                if name not in known:
                    parser.error(f"unknown {kind} {name!r}; known are {', '.join(known)}")
    if options.rules != "today" and not set(names) <= set(ours):
        parser.error(f"--rules are for {', '.join(ours)}")
    rules = "" if options.rules == "today" else f"-{options.rules}"
    suffix = f"{rules}-{options.epochs}epochs-seed{options.seed}"
    try:
        for name in names:
            what = f"{name!r} cannot be part of the name of a directory"
            directory = f"{name}{suffix}.unfinished"
            if Path(name).name != name or len(os.fsencode(directory)) > 255:
                parser.error(what)
            with contextlib.suppress(FileNotFoundError):
                Path(directory).lstat()  # on Windows, some letters can be in no name
        what = f"cannot write to {options.output}"
        options.output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.output).close()
    except OSError as error:
        parser.error(f"{what}: {error.strerror}")
    return [
        runs.Run(
            name, options.epochs, options.seed, options.output / f"{name}{suffix}", options.rules
        )
        for name in names
    ]


if __name__ == "__main__":
    machine.run_as_program(main, remark=runs.GOES_ON)
