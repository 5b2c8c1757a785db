"""An interrupted run goes on where it stopped, bit for bit, whatever interrupts it, and when."""

import contextlib
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
from types import SimpleNamespace

import pytest
from helpers import (
    NIN,
    POSIX,
    PROJECT,
    RESULT_FILES,
    KilledError,
    assert_complete,
    environment,
    history_of,
    killed,
    posix,
    python_path,
    run,
    run_main,
    start,
    synced,
)

import machine
import plot
import runs
import train

if POSIX:
    import fcntl
    import pty
    import termios

# Killed, and stopped


HOSTILE_SETTINGS = {
    "backend": "jax",
    "image_data_format": "channels_first",
    "floatx": "float16",
    "epsilon": 0.1,
}


def test_goes_on_after_a_kill_whatever_the_users_keras_settings(
    tmp_path, three_epochs, monkeypatch
):
    command = NIN, "--epochs", 3, "--output", tmp_path
    run_dir = runs.Run(NIN, 3, 0, tmp_path / three_epochs.name)
    with (
        start("tests/train_small.py", *command, env={"HOLD": "1"}) as process,
        contextlib.ExitStack() as at_the_end,
    ):
        at_the_end.callback(process.kill)  # it would sleep on, and be waited for, if this fails
        while not process.stdout.readline().startswith("held"):
            assert process.poll() is None
        # Nobody else may train it meanwhile, and is told so before TensorFlow starts.
        with monkeypatch.context() as patch:
            patch.setattr(machine, "start_tensorflow", None)
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
    assert metrics["code_sha256"] == [machine.LOADED_CODE]
    assert metrics["interrupted_after_epochs"] == [1]
    assert_complete(run_dir, three_epochs)
    assert [path.name for path in tmp_path.glob(f"{NIN}*")] == [three_epochs.name]  # and no lock


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


STOPPED = "stopped by Ctrl-C; the same command goes on after the last finished epoch\n"


@posix
def test_ctrl_c_stops_with_one_line_while_tensorflow_starts(tmp_path):
    process = start_with_another_tensorflow(tmp_path, "time.sleep(60)")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (130, "", STOPPED)


@posix
def test_in_a_terminal_bars_are_complete_and_ctrl_c_stops_with_one_line(tmp_path):
    """Within a call into TensorFlow, as good as always; no thread of it holds the program up."""
    terminal, theirs = pty.openpty()
    command = "tests/train_small.py", "deep_cnn", "--epochs", 1000, "--output", tmp_path
    in_it = {"stdin": theirs, "stdout": theirs, "preexec_fn": functools.partial(control, theirs)}
    with start(*command, start_new_session=True, **in_it) as process:
        shown = b""
        while b"time left" not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, f"\n{STOPPED}")  # below the bar
    assert re.search(rb"Epoch 1/1000\r\n.*10/10.*val_loss: \S+\r\ntime left", shown, re.DOTALL)
    assert shown.count(b"Epoch 1/") == 1  # and no bar while the network was tried
    assert {path.name for path in tmp_path.glob("*/*")} == {"accuracy.png", "state.npz"}
    for descriptor in (terminal, theirs):
        os.close(descriptor)


def control(terminal):
    """Let the keys of a terminal reach this process, a new session's first."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


@posix
def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As SIGINT is for a command that a script puts into the background."""
    ignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    process = start_with_another_tensorflow(tmp_path, "time.sleep(60)", preexec_fn=ignore)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == -signal.SIGTERM


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
import runs
run = runs.Run("any", 1, 0, Path(sys.argv[1]))
for i in itertools.count(int(sys.argv[2])):
    values = [np.full((40, 50), i), np.full(i % 7, i)]
    runs.write_state(run, runs.State({}, history=[i], values=values))
    print(i, flush=True)
"""


def test_the_state_file_is_whole_whenever_its_writer_is_killed(tmp_path):
    """Twenty-five kills of a process that does nothing but write states."""
    (tmp_path / "writer.py").write_text(WRITER)
    this = runs.Run("any", 1, 0, tmp_path / "run")
    this.unfinished.mkdir()
    generator = random.Random(0)
    last = -1
    for _ in range(25):
        process = start(
            tmp_path / "writer.py",
            this.directory,
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
        state = runs.read_state(this.state_file)
        assert state.history in ([last], [last + 1])  # the next may be there, but not told yet
        (last,) = state.history
        assert all((values == last).all() for values in state.values)
        assert [values.shape for values in state.values] == [(40, 50), (last % 7,)]


@pytest.fixture
def save_small(interrupted, three_epochs, monkeypatch):
    """A run that is trained to the end, and a function that saves it, with small stand-ins."""
    run = interrupted(3)
    state = runs.read_state(run.state_file)
    model = SimpleNamespace(save=lambda path: path.write_text("a network"))
    monkeypatch.setattr(runs, "metrics_of", lambda *_: runs.read_metrics(three_epochs))
    for function, name in (("plot_accuracy", "accuracy.png"), ("plot_errors", "errors.png")):
        monkeypatch.setattr(plot, function, lambda run, name=name: (run / name).write_text("plot"))
    predictions = [{"image": 0, "label": 7, "prediction": 7, "probability": 1.0}]
    return run, lambda: train.save(run, state, model, {}, predictions)


def test_there_is_a_whole_state_or_whole_results_at_every_line_of_save(save_small, three_epochs):
    run, save = save_small
    history = runs.read_state(run.state_file).history

    def kill(frame, event, argument):
        nonlocal lines_left
        if event == "line":
            if not lines_left:
                raise KilledError
            lines_left -= 1
        return kill

    traced = train.save.__code__, runs.finish.__code__
    kills = 0
    while not run.directory.exists() or run.unfinished.exists():
        lines_left = kills
        sys.settrace(lambda frame, *_: kill if frame.f_code in traced else None)
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
            assert runs.read_state(run.state_file).history == history
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
        f"replace {run.directory.name}",
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
    kills = begun = 0
    while kills < 25:
        begun += 1
        this = runs.Run(NIN, 12, 0, tmp_path / str(begun) / name)
        while True:
            process = start("tests/train_small.py", *command, this.directory.parent)
            if kills < 25:
                wait_for_random_moment(process, this, generator)
                generator.choice([process.kill, process.terminate])()
            _, errors = process.communicate()
            if process.returncode == 0:
                break
            assert killed(process) or process.returncode == -signal.SIGTERM, errors
            kills += 1
        assert_complete(this, tmp_path / "whole" / name)
    print(f"{kills} kills in {begun} runs")
