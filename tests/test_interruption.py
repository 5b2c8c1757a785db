"""An interrupted run goes on where it stopped, bit for bit; a finished one stays as it is."""

import functools
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import NIN, PROJECT, RESULT_FILES, history_of, run, run_main, same_run, start

import models
import plot
import train


def go_on(run):
    """Give the command of `run` again."""
    return run_main(
        run.model, "--epochs", run.epochs, "--seed", run.seed, "--output", run.directory.parent
    )


def assert_complete(run, three_epochs):
    assert {path.name for path in run.directory.iterdir()} == RESULT_FILES
    assert not run.unfinished.exists()
    assert same_run(run.directory, three_epochs)


# Killed, and stopped


HOSTILE_SETTINGS = {
    "backend": "jax",
    "image_data_format": "channels_first",
    "floatx": "float16",
    "epsilon": 0.1,
}


def run_in_a_terminal(script, *arguments, **options):
    """As `run`; the output is bytes."""
    terminal, theirs = pty.openpty()
    shown = b""
    with start(script, *arguments, stdout=theirs, **options) as process:
        os.close(theirs)
        try:
            while part := os.read(terminal, 4096):
                shown += part
        except OSError:  # how Linux tells that the other side has closed
            pass
        errors = process.stderr.read()
    os.close(terminal)
    return process.returncode, shown, errors


def test_goes_on_after_a_kill_in_a_terminal_whatever_the_users_keras_settings(
    tmp_path, three_epochs, monkeypatch
):
    command = NIN, "--epochs", 3, "--output", tmp_path
    run = train.Run(NIN, 3, 0, tmp_path / three_epochs.name)
    process = start("tests/train_small.py", *command)
    while not process.stdout.readline().startswith("Epoch 1/3 - "):
        assert process.poll() is None
    # Nobody else may train it meanwhile, and is told so before TensorFlow starts.
    with monkeypatch.context() as patch:
        patch.setattr(train, "start_tensorflow", None)
        for others in (command, command[1:]):
            code, output, errors = run_main(*others)
            assert (code, output) == (1, "")
            assert errors == f"train.py: another process is training {run.directory}\n"
    process.kill()
    _, errors = process.communicate()
    assert (process.returncode, errors) == (-signal.SIGKILL, "")
    assert not run.directory.exists()

    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(json.dumps(HOSTILE_SETTINGS))
    hostile = {"HOME": str(tmp_path), "KERAS_BACKEND": "torch", "KERAS_MAX_EPOCHS": "1"}
    code, shown, errors = run_in_a_terminal("tests/train_small.py", *command, env=hostile)
    assert (code, errors) == (0, "")
    assert f"{NIN}: resuming after epoch 1 of 3\r\n".encode() in shown
    # The time left comes after the epoch's complete bar, on a line of its own.
    assert re.search(rb"Epoch 2/3\r\n.*10/10.*val_loss: \S+\r\ntime left: about", shown, re.DOTALL)
    assert b"Epoch 1/3" not in shown and b"Epoch 3/3" in shown
    metrics = json.loads((run.directory / "metrics.json").read_text())
    assert metrics["devices"] == [train.device()]
    assert metrics["interrupted_after_epochs"] == [1]
    assert_complete(run, three_epochs)


def start_with_a_slow_tensorflow(tmp_path, **options):
    """Start train.py with a tensorflow that greets and sleeps; return while it does."""
    (tmp_path / "tensorflow").mkdir()
    started = tmp_path / "started"
    (tmp_path / "tensorflow/__init__.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(started)!r}).touch()\n"
        "os.write(2, b'a greeting')\ntime.sleep(60)\n"
    )
    env = {"PYTHONPATH": str(tmp_path)}
    process = start("train.py", "--output", tmp_path, env=env, **options)
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_with_one_line_while_tensorflow_starts(number, tmp_path):
    """Standard error is turned off then, to keep the greetings of TensorFlow away."""
    process = start_with_a_slow_tensorflow(tmp_path)
    process.send_signal(number)
    output, errors = process.communicate()
    assert (process.returncode, output) == (128 + number, "")
    assert errors == (
        f"stopped by {number.name}; the same command goes on after the last finished epoch\n"
    )


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As SIGINT is for a command that a script puts into the background."""
    ignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    process = start_with_a_slow_tensorflow(tmp_path, preexec_fn=ignore)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM


WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
import train
for i in itertools.count(int(sys.argv[2])):
    state = train.State({}, [], [], [i], [np.full((40, 50), i), np.full(i % 7, i)])
    train.write_state(Path(sys.argv[1]), state)
    print(i, flush=True)
"""


def test_the_state_file_is_whole_whenever_its_writer_is_killed(tmp_path):
    """Fifty kills of a process that does nothing but write states."""
    (tmp_path / "writer.py").write_text(WRITER)
    generator = random.Random(0)
    last = -1
    for _ in range(50):
        process = start(
            tmp_path / "writer.py",
            tmp_path / "state.npz",
            last + 1,
            env={"PYTHONPATH": str(PROJECT)},
        )
        last = int(process.stdout.readline())
        time.sleep(generator.uniform(0, 0.02))
        process.kill()
        rest, errors = process.communicate()
        assert (process.returncode, errors) == (-signal.SIGKILL, "")
        last = int(rest.splitlines()[-1]) if rest else last
        state = train.read_state(tmp_path / "state.npz")
        assert state.history in ([last], [last + 1])  # the next may be there, but not told yet
        (last,) = state.history
        assert all((values == last).all() for values in state.values)
        assert [values.shape for values in state.values] == [(40, 50), (last % 7,)]


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture
def steps(monkeypatch):
    """What reaches the disk, or leaves it, in its order."""
    steps = []

    def record(module, name, step):
        function = getattr(module, name)

        def recorded(*arguments, **options):
            steps.append(step(*arguments))
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, recorded)

    def synced(descriptor):
        return "sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name

    record(os, "fsync", synced)
    record(os, "replace", lambda old, new: f"replace {new.name}")
    record(Path, "rename", lambda old, new: f"rename {old.name}")
    record(shutil, "rmtree", lambda path, *_: f"remove {path.name}")
    return steps


def test_a_state_is_on_the_disk_before_it_replaces_the_earlier(steps, tmp_path):
    train.write_state(tmp_path / "state.npz", train.State({}, [], [], [], []))
    assert steps == ["sync state.npz.tmp", "replace state.npz"]


@pytest.fixture
def save_small(interrupted, three_epochs, monkeypatch):
    """A run that is trained to the end, and a function that saves it, with small stand-ins."""
    run = interrupted(3)
    metrics, _ = plot.read_run(three_epochs)
    history = train.read_state(run.state_file).history
    model = SimpleNamespace(save=lambda path: path.write_text("a network"))
    for function, name in (("plot_accuracy", "accuracy.png"), ("plot_errors", "errors.png")):
        monkeypatch.setattr(plot, function, lambda run, name=name: (run / name).write_text("plot"))
    predictions = [{"image": 0, "label": 7, "prediction": 7}]
    return run, lambda: train.save(run, model, metrics, history, predictions)


def test_there_is_a_whole_state_or_whole_results_at_every_line_of_save(save_small, three_epochs):
    run, save = save_small
    history = train.read_state(run.state_file).history

    def kill(frame, event, argument):
        nonlocal lines_left
        if event == "line":
            if not lines_left:
                raise KilledError
            lines_left -= 1
        return kill

    kills = 0
    while not run.directory.exists() or run.unfinished.exists():
        lines_left = kills
        sys.settrace(lambda frame, *_: kill if frame.f_code is train.save.__code__ else None)
        try:
            save()
        except KilledError:
            kills += 1
        finally:
            sys.settrace(None)
        if run.directory.exists():
            assert {path.name for path in run.directory.iterdir()} == RESULT_FILES
            assert history_of(run.directory) == history_of(three_epochs)
            assert (run.directory / "model.keras").read_text() == "a network"
            assert (run.directory / "accuracy.png").read_text() == "plot"
            if run.unfinished.exists():
                shutil.rmtree(run.directory)
        else:
            assert train.read_state(run.state_file).history == history
    assert kills > 8


def test_results_are_on_the_disk_before_they_appear_and_before_the_state_goes(save_small, steps):
    """A power cut may undo what is not synced."""
    run, save = save_small
    save()
    first, *files, directory, rename, parent, last = steps
    assert first == "remove results"  # what a kill may have left
    assert set(files) == {f"sync {name}" for name in RESULT_FILES}
    assert (directory, rename) == ("sync results", "rename results")
    assert parent == f"sync {run.directory.parent.name}"
    assert last == f"remove {run.unfinished.name}"


# Killed at random moments, for real


def wait_for_random_moment(process, run, generator):
    """Wait for a moment to kill: while the state is being written, or any other."""
    if generator.random() < 0.5:
        temporary = run.unfinished / "state.npz.tmp"
        skip = generator.randrange(3)
        present = False
        while process.poll() is None:
            if temporary.exists() != present:
                present = not present
                if present and skip == 0:
                    return
                skip -= present
    else:
        end = time.monotonic() + generator.uniform(0, 16)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)


@pytest.mark.slow
def test_survives_25_kills_at_random_moments(tmp_path):
    """Runs are killed, or stopped by SIGTERM, 25 times; each must end as one without that."""
    command = NIN, "--epochs", 12, "--output"
    name = f"{NIN}-12epochs-seed0"
    assert run_main(*command, tmp_path / "whole")[0] == 0
    generator = random.Random(time.time_ns())
    kills = runs = 0
    while kills < 25:
        runs += 1
        killed = train.Run(NIN, 12, 0, tmp_path / str(runs) / name)
        while True:
            process = start("tests/train_small.py", *command, killed.directory.parent)
            if kills < 25:
                wait_for_random_moment(process, killed, generator)
                number = generator.choice([signal.SIGKILL, signal.SIGTERM])
                process.send_signal(number)
            _, errors = process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode in (-number, 128 + number), errors
            kills += 1
        assert_complete(killed, tmp_path / "whole" / name)
    print(f"{kills} kills in {runs} runs")


# Finished


def snapshot(directory):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*.*")}


@pytest.fixture
def done(three_epochs, tmp_path):
    """A finished run; tests may change it."""
    shutil.copytree(three_epochs, tmp_path / three_epochs.name)
    return train.Run(NIN, 3, 0, tmp_path / three_epochs.name)


def test_a_finished_run_is_left_alone(done):
    before = snapshot(done.directory)
    assert go_on(done) == (
        0,
        f"{done.directory} is finished; to train it anew, move it away\n",
        "",
    )
    assert snapshot(done.directory) == before
    assert list(done.directory.parent.iterdir()) == [done.directory]


def test_of_two_models_only_the_unfinished_one_is_trained(done, monkeypatch):
    trained = []
    monkeypatch.setattr(train, "train", lambda run, *_: trained.append(run.model))
    code, output, errors = run_main("--epochs", 3, "--output", done.directory.parent)
    assert (code, errors, output.count("is finished")) == (0, "", 1)
    assert trained == ["deep_cnn_advanced"]


def test_a_finished_run_under_other_settings_is_told_so(done, monkeypatch):
    metrics = json.loads((done.directory / "metrics.json").read_text())
    metrics["keras"] = "2.0.8"
    (done.directory / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setitem(models.MODELS, NIN, with_dropout(0.4))
    code, output, errors = go_on(done)
    assert (code, errors, output.count("\n")) == (0, "", 1)
    assert f"finished under other settings (keras is 2.0.8 in it and {keras.__version__} here, "
    assert "layers.29.config.rate is 0.5 in it and 0.4 here)" in output


def test_a_state_left_beside_the_results_goes(done, trained):
    """A kill between the two leaves it; were it kept, nothing could be trained anew."""
    done.unfinished.mkdir()
    shutil.copy(trained / "state-3.npz", done.state_file)
    assert go_on(done)[0] == 0
    assert done.directory.exists() and not done.unfinished.exists()


@pytest.mark.parametrize("file", ["metrics.json", "model.keras", None])
def test_what_is_in_the_way_of_the_results_is_told_at_once(file, done, trained):
    done.unfinished.mkdir()
    shutil.copy(trained / "state-3.npz", done.state_file)
    if file:
        (done.directory / file).write_bytes(b"{")
    else:
        shutil.rmtree(done.directory)
        done.directory.mkdir()
    code, output, errors = go_on(done)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert f"{done.directory} is no finished run" in errors and "move it away" in errors
    assert done.state_file.exists()


# One process at a time


def test_both_runs_of_a_command_are_locked_before_the_first_is_trained(tmp_path, monkeypatch):
    second = train.Run(NIN, 3, 0, tmp_path / f"{NIN}-3epochs-seed0")
    monkeypatch.setattr(train, "start_tensorflow", None)
    with train.lock(second):
        code, _, errors = run_main("--epochs", 3, "--output", tmp_path)
    assert (code, errors.count("\n")) == (1, 1)
    assert f"another process is training {second.directory}" in errors


def test_the_lock_is_held_while_a_run_is_trained(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(train, "train", lambda run, *_: found.append(go_on(run)[0]))
    assert run_main("--epochs", 1, "--output", tmp_path)[0] == 0
    assert found == [1, 1]
    with train.lock(train.Run(NIN, 1, 0, tmp_path / f"{NIN}-1epochs-seed0")):
        pass  # it is free again


# States that are not this run's


def assert_refused(run, *parts):
    before = run.state_file.read_bytes()
    code, output, errors = go_on(run)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert "Epoch" not in output
    for part in (str(run.state_file), "move that file away", *parts):
        assert part in errors
    assert run.state_file.read_bytes() == before


def resave(path, **changes):
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, **changes})


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "half": lambda path: path.write_bytes(path.read_bytes()[:500_000]),
    "text": lambda path: path.write_text("not ours\n"),
    "another program's": lambda path: np.savez(path, weights=np.zeros(3)),
    "objects": lambda path: resave(path, about=np.array({}, dtype=object)),
    "no JSON": lambda path: resave(path, about="{"),
    "a bare list": lambda path: resave(path, about="[]"),
    "one bit": flip_a_bit,
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_state_is_told_and_kept(case, interrupted):
    run = interrupted()
    DAMAGES[case](run.state_file)
    assert_refused(run, "no whole state")


def moved(run, **changes):
    """Move the state of a run to where another run has its own; return that one."""
    fields = {"model": run.model, "epochs": run.epochs, "seed": run.seed} | changes
    name = "{model}-{epochs}epochs-seed{seed}".format(**fields)
    other = train.Run(**fields, directory=run.directory.with_name(name))
    run.unfinished.rename(other.unfinished)
    return other


def test_state_of_another_seed_is_refused(interrupted):
    assert_refused(moved(interrupted(), seed=1), "seed is 0 in it and 1 here")


def test_state_of_another_model_is_refused(interrupted):
    assert_refused(moved(interrupted(), model="deep_cnn_advanced"), f"model is {NIN} in it")


def test_bad_state_of_the_second_model_is_told_before_the_first_is_trained(interrupted):
    run = interrupted()
    run.state_file.write_bytes(b"")
    code, output, errors = run_main("--epochs", 3, "--output", run.directory.parent)
    assert (code, errors.count("\n"), "Epoch" in output) == (1, 1, False)
    assert str(run.state_file) in errors


@pytest.mark.parametrize("package", ["keras", "tensorflow"])
def test_state_of_another_version_is_refused(package, interrupted):
    run = interrupted()
    state = train.read_state(run.state_file)
    state.identity[package] = "2.0.8"
    train.write_state(run.state_file, state)
    assert_refused(run, f"{package} is 2.0.8 in it")


def with_dropout(rate):
    def build():
        model = models.deep_cnn_advanced_nin()
        model.layers[-2].rate = rate
        return model

    return build


def with_layers(*order):
    """The first three layers in another order, or fewer of them; the others as they are."""

    def build():
        first, *layers = [
            keras.Input((28, 28, 1), name="input_layer"),
            *models.deep_cnn_advanced_nin().layers,
        ]
        layers = [first, *(layers[i] for i in order), *layers[3:]]
        return models.compiled(keras.Sequential(layers, name=NIN))

    return build


def compiled_with(**changes):
    def build():
        model = models.deep_cnn_advanced_nin()
        model.compile(
            **{"loss": "categorical_crossentropy", "optimizer": "adam", "metrics": ["accuracy"]}
            | changes
        )
        return model

    return build


EDITS = {
    "dropout": (with_dropout(0.4), "network.layers.29.config.rate is 0.5 in it and 0.4 here"),
    "order": (
        with_layers(0, 2, 1),
        "network.layers.2.class_name is BatchNormalization in it and Activation here",
    ),
    "a layer less": (
        with_layers(0, 1),
        "network.layers.3.class_name is Activation in it and Conv2D here",
    ),
    "learning rate": (
        compiled_with(optimizer=keras.optimizers.Adam(0.5)),
        "compilation.optimizer.config.learning_rate is 0.001",
    ),
    "optimizer": (compiled_with(optimizer="sgd"), "compilation.optimizer.class_name is Adam in it"),
    "loss": (compiled_with(loss="mse"), "compilation.loss is categorical_crossentropy in it"),
}


@pytest.mark.parametrize("case", EDITS)
def test_state_of_a_network_edited_since_is_refused(case, interrupted, monkeypatch):
    build, part = EDITS[case]
    monkeypatch.setitem(models.MODELS, NIN, build)
    assert_refused(interrupted(), part)


@pytest.mark.parametrize(("name", "value"), [("BATCH_SIZE", 64), ("VALIDATION_SPLIT", 0.1)])
def test_state_of_another_training_constant_is_refused(name, value, interrupted, monkeypatch):
    before = getattr(train, name)
    monkeypatch.setattr(train, name, value)
    assert_refused(interrupted(), f"{name.lower()} is {before} in it and {value} here")


def test_differences_are_few_and_in_order():
    here = {f"{i}": i for i in range(9)}
    assert train.differences(here, dict(here)) == ""
    assert train.differences({**here, "8": 7}, here) == "8 is 7 in it and 8 here"
    assert train.differences({"9": 1}, here) == (
        "0 is None in it and 0 here, 1 is None in it and 1 here, 2 is None in it and 2 here, 7 more"
    )


def test_another_device_goes_on_and_is_named(interrupted, monkeypatch, three_epochs):
    here = train.device()
    monkeypatch.setattr(train, "device", lambda: "VAX, 1 cores")
    run = interrupted(3)
    code, output, errors = go_on(run)
    assert (code, errors) == (0, "")
    assert output.startswith("Device: VAX, 1 cores\n")
    assert f"{NIN}: begun on {here}: the last bits may differ\n" in output
    metrics, _ = plot.read_run(run.directory)
    assert metrics["devices"] == [here, "VAX, 1 cores"]


# More epochs than the state was made for


def test_state_moved_to_a_longer_run_goes_on(interrupted, monkeypatch):
    found = []
    monkeypatch.setattr(train, "train", lambda run, state, *_: found.append(len(state.history)))
    code, output, _ = go_on(moved(interrupted(2), epochs=50))
    assert code == 0 and f"{NIN}: resuming after epoch 2 of 50\n" in output
    assert found == [2]


def test_state_of_more_epochs_than_asked_for_is_refused(interrupted):
    assert_refused(moved(interrupted(2), epochs=1), "has 2 epochs and this run 1")


# No room to save


@pytest.fixture
def file_size_limit():
    """Limit the size of a file, which stands for a full disk: writing fails as it does there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_the_state(interrupted, monkeypatch, file_size_limit):
    run = interrupted()
    before = run.state_file.read_bytes()
    monkeypatch.setattr(train, "fit", lambda *arguments: arguments[-1]({"epoch": 2}))
    file_size_limit(300_000)
    code, _, errors = go_on(run)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert f"cannot save {run.state_file}: File too large" in errors and train.GOES_ON in errors
    assert run.state_file.read_bytes() == before
    assert {path.name for path in run.unfinished.iterdir()} == {"lock", "state.npz"}


def test_no_room_for_the_results(interrupted, three_epochs, file_size_limit):
    """The small files still fit, the network does not: nothing is in place until all are."""
    run = interrupted(3)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    file_size_limit(500_000)
    code, _, errors = go_on(run)
    file_size_limit(limit)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert f"cannot save {run.directory}" in errors
    assert not run.directory.exists()
    code, output, _ = go_on(run)
    assert code == 0 and "resuming after epoch 3 of 3" in output
    assert_complete(run, three_epochs)


def test_no_room_for_tensorflow_to_start(interrupted):
    stopped = interrupted()
    before = stopped.state_file.read_bytes()
    code, _, errors = run(
        "train.py", NIN, "--epochs", 3, "--output", stopped.directory.parent,
        preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0)),
    )  # fmt: skip
    assert (code, errors.count("\n")) == (1, 1), errors
    assert "cannot start TensorFlow" in errors
    assert stopped.state_file.read_bytes() == before


def test_no_room_to_print():
    with open("/dev/full", "w") as full:
        code, _, errors = run("train.py", "--output", PROJECT / "results/published", stdout=full)
    assert (code, errors) == (
        1,
        f"train.py: stopped by [Errno 28] No space left on device; {train.GOES_ON}\n",
    )
