"""An interrupted run goes on where it stopped, bit for bit; a finished one stays as it is."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import (
    NIN,
    POSIX,
    PROJECT,
    RESULT_FILES,
    environment,
    history_of,
    killed,
    python_path,
    run,
    run_main,
    same_run,
    start,
)

import machine
import models
import plot
import train

if POSIX:
    import pty
    import resource

posix = pytest.mark.skipif(not POSIX, reason="Windows has no pseudo-terminals, signals and limits")


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


def test_goes_on_after_a_kill_whatever_the_users_keras_settings(
    tmp_path, three_epochs, monkeypatch
):
    command = NIN, "--epochs", 3, "--output", tmp_path
    run_dir = train.Run(NIN, 3, 0, tmp_path / three_epochs.name)
    with (
        start("tests/train_small.py", *command, env={"HOLD": "1"}) as process,
        contextlib.ExitStack() as at_the_end,
    ):
        at_the_end.callback(process.kill)  # it would sleep on, and be waited for, if this fails
        while not process.stdout.readline().startswith("held"):
            assert process.poll() is None
        # Nobody else may train it meanwhile, and is told so before TensorFlow starts.
        with monkeypatch.context() as patch:
            patch.setattr(train, "start_tensorflow", None)
            for others in (command, command[1:]):
                code, output, errors = run_main(*others)
                assert (code, output) == (1, "")
                assert errors == f"train.py: another process is training {run_dir.directory}\n"
        process.kill()
        _, errors = process.communicate()
    assert killed(process) and errors == ""
    assert not run_dir.directory.exists()

    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(json.dumps(HOSTILE_SETTINGS))
    homes = dict.fromkeys(("HOME", "USERPROFILE"), str(tmp_path))  # the latter on Windows
    hostile = {**homes, "KERAS_BACKEND": "torch", "KERAS_MAX_EPOCHS": "1"}
    code, output, errors = run("tests/train_small.py", *command, env=hostile)
    assert (code, errors) == (0, "")
    assert f"{NIN}: resuming after epoch 1 of 3\n" in output
    assert "Epoch 1/3" not in output and "Epoch 2/3 - " in output and "Epoch 3/3 - " in output
    metrics = json.loads((run_dir.directory / "metrics.json").read_text())
    assert metrics["devices"] == [machine.device()]
    assert metrics["interrupted_after_epochs"] == [1]
    assert_complete(run_dir, three_epochs)
    assert [path.name for path in tmp_path.glob(f"{NIN}*")] == [three_epochs.name]  # and no lock


@posix
def test_in_a_terminal_the_time_left_follows_the_complete_bar_of_an_epoch(interrupted):
    output = interrupted().directory.parent
    command = NIN, "--epochs", 3, "--output", output
    code, shown, errors = run_in_a_terminal("tests/train_small.py", *command)
    assert (code, errors) == (0, "")
    assert f"{NIN}: resuming after epoch 1 of 3\r\n".encode() in shown
    assert re.search(rb"Epoch 2/3\r\n.*10/10.*val_loss: \S+\r\ntime left: about", shown, re.DOTALL)
    assert b"Epoch 1/3" not in shown and b"Epoch 3/3" in shown


def start_with_another_tensorflow(tmp_path, code, **options):
    """Start train.py with a tensorflow that greets and does this; return when it has greeted."""
    (tmp_path / "tensorflow").mkdir()
    started = tmp_path / "started"
    (tmp_path / "tensorflow/__init__.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(started)!r}).touch()\n"
        f"os.write(2, b'I0000 a greeting\\n')\n{code}\n"
    )
    env = {"PYTHONPATH": python_path(tmp_path)}
    process = start("train.py", "--output", tmp_path / "results", env=env, **options)
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_with_one_line_while_tensorflow_starts(number, tmp_path):
    process = start_with_another_tensorflow(tmp_path, "time.sleep(60)")
    process.send_signal(number)
    output, errors = process.communicate()
    assert (process.returncode, output) == (128 + number, "")
    assert errors == (
        f"stopped by {number.name}; the same command goes on after the last finished epoch\n"
    )


@posix
def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As SIGINT is for a command that a script puts into the background."""
    ignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    process = start_with_another_tensorflow(tmp_path, "time.sleep(60)", preexec_fn=ignore)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM


def test_why_tensorflow_aborts_while_it_starts_is_told(tmp_path):
    """As for a processor without AVX; its greetings are not, which go the same way."""
    code = "os.write(2, b'F0000 this processor has no AVX\\n'); os.abort()"
    process = start_with_another_tensorflow(tmp_path, code)
    output, errors = process.communicate()
    assert (process.returncode, output) != (0, "")
    assert "this processor has no AVX" in errors and "greeting" not in errors


def test_tensorflow_that_is_not_installed_is_told_in_one_line(tmp_path):
    code = "raise ModuleNotFoundError('No module named tensorflow')"
    process = start_with_another_tensorflow(tmp_path, code)
    output, errors = process.communicate()
    assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
    assert "No module named tensorflow" in errors
    assert f"{sys.executable} -m pip install -r requirements.txt" in errors
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize("script", ["train.py", "plot.py"])
def test_python_without_the_packages_is_told_in_one_line(script):
    """As by the system's Python, instead of that of the virtual environment."""
    env = environment(PYTHONPATH="")
    command = [sys.executable, "-S", PROJECT / script]
    ended = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert "No module named" in ended.stderr
    assert f"{sys.executable} -m pip install -r requirements.txt" in ended.stderr


WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
import train
for i in itertools.count(int(sys.argv[2])):
    state = train.State({}, [], [], [], [i], [np.full((40, 50), i), np.full(i % 7, i)])
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
            env={"PYTHONPATH": python_path(PROJECT)},
            # No buffer, which may hold more than a line when `communicate` goes on behind it.
            bufsize=0,
            text=False,
            errors=None,
        )
        last = int(process.stdout.readline())
        time.sleep(generator.uniform(0, 0.02))
        process.kill()
        rest, errors = process.communicate()
        assert killed(process) and errors == b""
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

    names = {}
    open_descriptor = os.open

    def open_and_name(path, *arguments, **options):
        descriptor = open_descriptor(path, *arguments, **options)
        names[descriptor] = Path(path).name
        return descriptor

    monkeypatch.setattr(os, "open", open_and_name)
    record(os, "fsync", lambda descriptor: f"sync {names[descriptor]}")
    record(os, "replace", lambda old, new: f"replace {new.name}")
    record(Path, "rename", lambda old, new: f"rename {old.name}")
    record(shutil, "rmtree", lambda path, *_: f"remove {path.name}")
    return steps


def synced(directory):
    """What syncing a directory leaves in the steps: Windows can not."""
    return [f"sync {directory.name}"] if POSIX else []


def test_a_state_is_on_the_disk_before_it_replaces_the_earlier_and_its_name_after(steps, tmp_path):
    train.write_state(tmp_path / "state.npz", train.State({}, [], [], [], [], []))
    assert steps == ["sync state.npz.tmp", "replace state.npz", *synced(tmp_path)]


@pytest.fixture
def save_small(interrupted, three_epochs, monkeypatch):
    """A run that is trained to the end, and a function that saves it, with small stand-ins."""
    run = interrupted(3)
    metrics, _ = plot.read_run(three_epochs)
    history = train.read_state(run.state_file).history
    model = SimpleNamespace(save=lambda path: path.write_text("a network"))
    for function, name in (("plot_accuracy", "accuracy.png"), ("plot_errors", "errors.png")):
        monkeypatch.setattr(plot, function, lambda run, name=name: (run / name).write_text("plot"))
    predictions = [{"image": 0, "label": 7, "prediction": 7, "probability": 1.0}]
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
    new = run.unfinished / "results"
    files = steps[1 : 1 + len(RESULT_FILES)]
    assert set(files) == {f"sync {name}" for name in RESULT_FILES}
    assert [step for step in steps if step not in files] == [
        "remove results",  # what a kill may have left
        *synced(new),
        "rename results",
        *synced(run.directory.parent),
        f"remove {run.unfinished.name}",
    ]


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
    seed = time.time_ns()
    print(f"the seed of the random moments: {seed}")  # pytest shows it if this fails
    generator = random.Random(seed)
    kills = runs = 0
    while kills < 25:
        runs += 1
        this = train.Run(NIN, 12, 0, tmp_path / str(runs) / name)
        while True:
            process = start("tests/train_small.py", *command, this.directory.parent)
            if kills < 25:
                wait_for_random_moment(process, this, generator)
                generator.choice([process.kill, process.terminate])()
            _, errors = process.communicate()
            if process.returncode == 0:
                break
            # SIGTERM may come before the program has its own handler.
            ended = -signal.SIGTERM, 128 + signal.SIGTERM
            assert killed(process) or process.returncode in ended, errors
            kills += 1
        assert_complete(this, tmp_path / "whole" / name)
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
    """And others may be told meanwhile that the other is finished: no lock is kept on it."""
    trained = []

    def train_one(run, *_):
        trained.append(run.model)
        code, output, _ = go_on(done)
        assert code == 0 and f"{done.directory} is finished;" in output

    monkeypatch.setattr(train, "train", train_one)
    code, output, errors = run_main("--epochs", 3, "--output", done.directory.parent)
    assert (code, errors, output.count("is finished")) == (0, "", 1)
    assert trained == ["deep_cnn_advanced"]


def test_what_is_trained_is_decided_once_under_the_lock(done, monkeypatch):
    """Results moved away while TensorFlow starts do not let a run be trained without a lock."""
    trained = []
    monkeypatch.setattr(train, "train", lambda run, *_: trained.append(run.model))
    elsewhere = done.directory.with_name("elsewhere")
    monkeypatch.setattr(train, "start_tensorflow", lambda: done.directory.rename(elsewhere))
    code, output, errors = go_on(done)
    assert (code, errors, trained) == (0, "", []) and "is finished" in output


def test_a_finished_run_under_other_settings_is_told_so(done):
    metrics = json.loads((done.directory / "metrics.json").read_text())
    metrics["keras"] = "2.0.8"
    metrics["environment"]["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    (done.directory / "metrics.json").write_text(json.dumps(metrics))
    code, output, errors = go_on(done)
    assert (code, errors, output.count("\n")) == (0, "", 1)
    different = (
        f"keras is 2.0.8 in it and {keras.__version__} here, "
        "environment.ONEDNN_MAX_CPU_ISA is AVX2 in it and None here"
    )
    assert f"is finished under other settings ({different}); to train it beside, " in output


def test_a_finished_run_of_a_network_edited_since_is_told_and_how_to_train_both(done, monkeypatch):
    monkeypatch.setitem(models.MODELS, NIN, with_dropout(0.4))
    code, output, errors = go_on(done)
    assert (code, errors, output.count("\n")) == (0, "", 1)
    assert f"{done.directory} is finished, but of another network than {NIN} in models.py" in output
    assert "give it a name of its own in MODELS" in output and "--output" in output


def test_an_error_in_a_network_is_pythons_traceback_of_it(done, monkeypatch):
    """Whatever else could be said: nothing is wrong with the finished run."""
    monkeypatch.setitem(models.MODELS, NIN, lambda: models.conv_3x3(no_such_argument=1))
    with pytest.raises(TypeError, match="no_such_argument"):
        go_on(done)


def test_a_network_without_an_input_goes_on_as_well(tmp_path, monkeypatch):
    """Its variables are there before the first image."""

    def build():
        dense = keras.layers.Dense(10, activation="softmax")
        return models.compiled(keras.Sequential([keras.layers.Flatten(), dense]))

    monkeypatch.setitem(models.MODELS, "mine", build)
    for epochs in (1, 2):
        assert run_main("mine", "--epochs", epochs, "--output", tmp_path / f"{epochs}")[0] == 0
    states = []
    write_state = train.write_state

    def stop_after_the_first(path, state):
        write_state(path, state)
        states.append(len(state.history))
        if states == [1]:
            raise KilledError

    monkeypatch.setattr(train, "write_state", stop_after_the_first)
    command = "mine", "--epochs", 2, "--output", tmp_path / "interrupted"
    with pytest.raises(KilledError):
        run_main(*command)
    assert run_main(*command)[0] == 0 and states == [1, 2]
    name = "mine-2epochs-seed0"
    assert same_run(tmp_path / "interrupted" / name, tmp_path / "2" / name)


def no_network():
    """A function that somebody has forgotten the `return` of."""


def without_accuracy():
    model = models.deep_cnn_advanced_nin()
    model.compile(loss="categorical_crossentropy", optimizer="adam")
    return model


def not_compiled():
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])


def with_seven_digits():
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(7)]
    return models.compiled(keras.Sequential(layers))


@pytest.mark.parametrize("build", [no_network, not_compiled, without_accuracy, with_seven_digits])
def test_what_is_no_network_to_train_is_told_in_one_line(build, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "mine", build)
    code, output, errors = run_main("mine", "--output", tmp_path)
    assert (code, output) == (1, "")
    wanted = "a keras.Model with an output of (None, 10), compiled with metrics=['accuracy']"
    assert errors == f"train.py: mine of models.py does not return {wanted}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_state_left_beside_the_results_goes(done, trained):
    """A kill between the two leaves it; were it kept, nothing could be trained anew."""
    done.unfinished.mkdir()
    shutil.copy(trained / "state-3.npz", done.state_file)
    assert go_on(done)[0] == 0
    assert done.directory.exists() and not done.unfinished.exists()


@pytest.mark.parametrize("file", ["metrics.json", "history.csv", None])
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


def lock_file(run):
    return run.directory.with_name(f"{run.directory.name}.lock")


def test_both_runs_of_a_command_are_locked_before_the_first_is_trained(tmp_path, monkeypatch):
    second = train.Run(NIN, 3, 0, tmp_path / f"{NIN}-3epochs-seed0")
    monkeypatch.setattr(train, "start_tensorflow", None)
    with machine.locked(lock_file(second), "training it"):
        code, _, errors = run_main("--epochs", 3, "--output", tmp_path)
    assert (code, errors.count("\n")) == (1, 1)
    assert f"another process is training {second.directory}" in errors


def test_the_lock_is_held_while_a_run_is_trained(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(train, "train", lambda run, *_: found.append(go_on(run)[0]))
    assert run_main("--epochs", 1, "--output", tmp_path)[0] == 0
    assert found == [1, 1]
    with machine.locked(tmp_path / f"{NIN}-1epochs-seed0.lock", "training it"):
        pass  # it is free again


@posix
def test_a_disk_without_locks_is_told_in_one_line(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    code, output, errors = run_main("--output", tmp_path)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert f"cannot lock {tmp_path}" in errors and "No locks available" in errors
    assert "--output" in errors and "goes on" not in errors


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


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EIO])
def test_a_state_that_cannot_be_read_is_not_called_damaged(reason, interrupted, monkeypatch):
    run = interrupted()
    read_bytes = Path.read_bytes

    def refuse(path):
        if path == run.state_file:
            raise OSError(reason, os.strerror(reason), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    code, output, errors = go_on(run)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith(f"train.py: cannot read {run.state_file}: {os.strerror(reason)}")
    assert "when that is mended" in errors and "move" not in errors


def moved(run, **changes):
    """Move the state of a run to where another run has its own; return that one."""
    fields = {"model": run.model, "epochs": run.epochs, "seed": run.seed} | changes
    name = "{model}-{epochs}epochs-seed{seed}".format(**fields)
    other = train.Run(**fields, directory=run.directory.with_name(name))
    run.unfinished.rename(other.unfinished)
    return other


def test_state_of_another_seed_is_refused(interrupted):
    assert_refused(moved(interrupted(), seed=1), "seed is 0 in it and 1 here")


def test_state_of_other_rules_is_refused(interrupted):
    run = interrupted()
    other = dataclasses.replace(
        run, rules="2017", directory=run.directory.with_name(f"{NIN}-2017-3epochs-seed0")
    )
    run.unfinished.rename(other.unfinished)
    code, _, errors = run_main(
        NIN, "--rules", 2017, "--epochs", 3, "--output", run.directory.parent
    )
    assert code == 1 and "rules is today in it and 2017 here" in errors


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
    here = machine.device()
    monkeypatch.setattr(train, "device", lambda: "VAX, 1 cores")
    run = interrupted(3)
    code, output, errors = go_on(run)
    assert (code, errors) == (0, "")
    assert "Device: VAX, 1 cores\n" in output
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


@posix
def test_no_room_for_the_state(interrupted, monkeypatch, file_size_limit):
    run = interrupted()
    before = run.state_file.read_bytes()
    monkeypatch.setattr(train, "fit", lambda *arguments: arguments[-1]({"epoch": 2}))
    file_size_limit(300_000)
    code, _, errors = go_on(run)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert f"cannot save {run.state_file}: File too large" in errors and train.GOES_ON in errors
    assert run.state_file.read_bytes() == before
    assert {path.name for path in run.unfinished.iterdir()} == {"state.npz"}


@posix
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


@posix
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


@posix
def test_no_room_to_print():
    with open("/dev/full", "w") as full:
        code, _, errors = run("train.py", "--output", PROJECT / "results/published", stdout=full)
    assert (code, errors) == (
        1,
        "train.py: stopped by [Errno 28] No space left on device\n",
    )


# Shared and odd disks


def refusing(function, reason, applies):
    """Return `function`, with an error instead where `applies` says so."""

    def refuse(path, *arguments, **options):
        if applies(path):
            raise OSError(reason, os.strerror(reason), str(path))
        return function(path, *arguments, **options)

    return refuse


def test_an_unfinished_directory_that_cannot_be_removed_is_no_failure(interrupted, monkeypatch):
    """As on NFS, while somebody has a file in it open; the next start removes it."""
    run = interrupted(3)
    with monkeypatch.context() as patch:
        rmdir = refusing(os.rmdir, errno.ENOTEMPTY, lambda path: str(path).endswith("unfinished"))
        patch.setattr(os, "rmdir", rmdir)
        code, output, errors = go_on(run)
    assert (code, errors) == (0, "") and f"Results: {run.directory}\n" in output
    assert run.directory.exists() and run.unfinished.exists() and not run.state_file.exists()
    assert go_on(run)[0] == 0 and not run.unfinished.exists()


@posix
@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_syncs_no_directories_is_used_as_it_is(reason, steps, monkeypatch, tmp_path):
    is_directory = lambda descriptor: os.path.isdir(f"/dev/fd/{descriptor}")  # noqa: E731
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, reason, is_directory))
    train.write_state(tmp_path / "state.npz", train.State({}, [], [], [], [], []))
    assert steps == ["sync state.npz.tmp", "replace state.npz"]


@posix
def test_a_disk_that_fails_to_sync_is_told(interrupted, monkeypatch):
    run = interrupted()
    monkeypatch.setattr(train, "fit", lambda *arguments: arguments[-1]({"epoch": 2}))
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, errno.EIO, lambda descriptor: True))
    code, _, errors = go_on(run)
    assert (code, errors.count("\n")) == (1, 1)
    assert f"cannot save {run.unfinished}: {os.strerror(errno.EIO)}" in errors
