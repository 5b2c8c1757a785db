"""What a run is: its files and its state, whole, its own, and refused if they are not."""

import dataclasses
import errno
import functools
import json
import os
import runpy
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import (
    NIN,
    POSIX,
    PROJECT,
    assert_complete,
    go_on,
    posix,
    run,
    run_main,
    synced,
)

import machine
import models
import runs
import train

if POSIX:
    import resource

# Finished


def snapshot(directory):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*.*")}


@pytest.fixture
def done(three_epochs, tmp_path):
    """A finished run; tests may change it."""
    shutil.copytree(three_epochs, tmp_path / three_epochs.name)
    return runs.Run(NIN, 3, 0, tmp_path / three_epochs.name)


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
    monkeypatch.setattr(machine, "start_tensorflow", lambda: done.directory.rename(elsewhere))
    code, output, errors = go_on(done)
    assert (code, errors, trained) == (0, "", []) and "is finished" in output


def test_a_run_that_another_process_finishes_just_now_is_finished(done, monkeypatch):
    """After it was looked for, and before it is locked."""
    elsewhere = done.directory.rename(done.directory.with_name("elsewhere"))
    locked = machine.locked

    def finish_and_lock(*arguments):
        elsewhere.rename(done.directory)
        return locked(*arguments)

    monkeypatch.setattr(runs, "locked", finish_and_lock)
    code, output, errors = go_on(done)
    assert (code, errors) == (0, "") and f"{done.directory} is finished;" in output


def edit_metrics(run, **changes):
    path = run.directory / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_finished_run_under_other_settings_is_told_so(done):
    """And not, besides, that Keras 2.0.8 calls the same network another."""
    edit_metrics(
        done, keras="2.0.8", environment={"ONEDNN_MAX_CPU_ISA": "AVX2"}, network_sha256="another"
    )
    code, output, errors = go_on(done)
    assert (code, errors, output.count("\n")) == (0, "", 1)
    different = (
        f"keras: 2.0.8 there, {keras.__version__} here, "
        "environment.TF_ENABLE_ONEDNN_OPTS: None there, 1 here, "
        "environment.ONEDNN_MAX_CPU_ISA: AVX2 there, None here"
    )
    assert f"is finished under other settings ({different}); to train this one beside" in output


def test_a_finished_run_of_other_code_is_told_so(done):
    edit_metrics(done, code_sha256=[machine.LOADED_CODE, {**machine.LOADED_CODE, "data.py": "0"}])
    code, output, errors = go_on(done)
    assert (code, errors, output.count("\n")) == (0, "", 1)
    assert f"{done.directory} is finished, by other code (data.py); to train it anew" in output


def test_a_finished_run_of_a_network_edited_since_is_told_and_how_to_train_both(done, monkeypatch):
    monkeypatch.setitem(models.MODELS, NIN, with_dropout(0.4))
    code, output, errors = go_on(done)
    assert (code, errors, output.count("\n")) == (0, "", 1)
    assert f"{done.directory} is finished, but of another network than {NIN} in models.py" in output
    assert "give it a name of its own in MODELS" in output and "--output" in output


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


def test_both_runs_of_a_command_are_locked_before_the_first_is_trained(tmp_path, monkeypatch):
    second = runs.Run(NIN, 3, 0, tmp_path / f"{NIN}-3epochs-seed0")
    monkeypatch.setattr(machine, "start_tensorflow", None)
    with machine.locked(second.lock_file, "training it"):
        code, _, errors = run_main("--epochs", 3, "--output", tmp_path)
    assert (code, errors.count("\n")) == (1, 1)
    assert f"another process is training {second.directory}" in errors


def test_equal_commands_at_once_all_tell_of_a_finished_run(done):
    with machine.locked(done.lock_file, "telling of it"):
        code, output, errors = go_on(done)
    assert (code, errors) == (0, "") and f"{done.directory} is finished;" in output


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
    other = runs.Run(**fields, directory=run.directory.with_name(name))
    run.unfinished.rename(other.unfinished)
    return other


def test_state_of_another_seed_is_refused(interrupted):
    assert_refused(moved(interrupted(), seed=1), "seed: 0 there, 1 here")


def test_state_of_other_rules_is_refused(interrupted):
    run = interrupted()
    other = dataclasses.replace(
        run, rules="2017", directory=run.directory.with_name(f"{NIN}-2017-3epochs-seed0")
    )
    run.unfinished.rename(other.unfinished)
    code, _, errors = run_main(
        NIN, "--rules", 2017, "--epochs", 3, "--output", run.directory.parent
    )
    assert code == 1 and "rules: today there, 2017 here" in errors


def test_state_of_another_model_is_refused(interrupted):
    assert_refused(
        moved(interrupted(), model="deep_cnn_advanced"),
        f"model: {NIN} there, deep_cnn_advanced here",
    )


def test_bad_state_of_the_second_model_is_told_before_the_first_is_trained(interrupted):
    run = interrupted()
    run.state_file.write_bytes(b"")
    code, output, errors = run_main("--epochs", 3, "--output", run.directory.parent)
    assert (code, errors.count("\n"), "Epoch" in output) == (1, 1, False)
    assert str(run.state_file) in errors


@pytest.mark.parametrize("package", ["keras", "tensorflow"])
def test_state_of_another_version_is_refused(package, interrupted):
    run = interrupted()
    state = runs.read_state(run.state_file)
    state.identity[package] = "2.0.8"
    runs.write_state(run, state)
    assert_refused(run, f"{package}: 2.0.8 there")


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
    "dropout": (with_dropout(0.4), "network.layers.29.config.rate: 0.5 there, 0.4 here"),
    "order": (
        with_layers(0, 2, 1),
        "network.layers.2.class_name: BatchNormalization there, Activation here",
    ),
    "a layer less": (
        with_layers(0, 1),
        "network.layers.3.class_name: Activation there, Conv2D here",
    ),
    "learning rate": (
        compiled_with(optimizer=keras.optimizers.Adam(0.5)),
        "compilation.optimizer.config.learning_rate: 0.001",
    ),
    "optimizer": (compiled_with(optimizer="sgd"), "compilation.optimizer.class_name: Adam there"),
    "loss": (compiled_with(loss="mse"), "compilation.loss: categorical_crossentropy there"),
}


@pytest.mark.parametrize("case", EDITS)
def test_state_of_a_network_edited_since_is_refused(case, interrupted, monkeypatch):
    build, part = EDITS[case]
    monkeypatch.setitem(models.MODELS, NIN, build)
    beside = "choose another --output, or give it a name of its own"
    assert_refused(interrupted(), f"is of another network than {NIN} in models.py", beside, part)


@pytest.mark.parametrize(("name", "value"), [("BATCH_SIZE", 64), ("VALIDATION_SPLIT", 0.1)])
def test_state_of_another_training_constant_is_refused(name, value, interrupted, monkeypatch):
    before = getattr(runs, name)
    monkeypatch.setattr(runs, name, value)
    different = f"is of another run ({name.lower()}: {before} there, {value} here)"
    assert_refused(interrupted(), different, "choose another --output")


def test_differences_are_few_and_in_order():
    here = {f"{i}": i for i in range(9)}
    assert runs.differences(here, dict(here)) == ""
    assert runs.differences({**here, "8": 7}, here) == "8: 7 there, 8 here"
    assert runs.differences({"9": 1}, here) == (
        "0: None there, 0 here, 1: None there, 1 here, 2: None there, 2 here, 7 more"
    )


def test_another_device_and_other_code_go_on_and_are_named(interrupted, monkeypatch):
    here, loaded = machine.device(), machine.LOADED_CODE
    other = {**loaded, "data.py": "0", "models.py": "0"}
    monkeypatch.setattr(machine, "device", lambda: "VAX, 1 cores")
    monkeypatch.setattr(runs, "device", machine.device)
    monkeypatch.setattr(runs, "LOADED_CODE", other)
    run = interrupted(3)
    code, output, errors = go_on(run)
    assert (code, errors) == (0, "")
    assert "Device: VAX, 1 cores\n" in output
    assert f"{NIN}: begun on {here}: the last bits may differ\n" in output
    assert f"{NIN}: the code has changed since epoch 3: models.py, data.py\n" in output
    metrics, _ = runs.read_run(run.directory)
    assert metrics["devices"] == [here, "VAX, 1 cores"]
    assert metrics["code_sha256"] == [loaded, other]


@pytest.mark.parametrize("network", ["a function", "a lambda", "an activation"])
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_lambda_is_the_same_wherever_it_is_written(network, tmp_path):
    """And another if it computes something else."""
    call = {
        "a function": "keras.layers.Lambda(lambda x: x * {})",
        "a lambda": "keras.layers.Lambda(lambda x: (lambda y: y * {})(x))",
        "an activation": "keras.layers.Dense(2, activation=lambda x: x * {})",
    }[network]

    def digest(code):
        keras.utils.clear_session()
        path = tmp_path / f"{len(code)}.py"
        path.write_text(f"import keras\n{code}\n")
        layer = runpy.run_path(str(path))["layer"]
        return runs.digest_of(models.compiled(keras.Sequential([keras.Input((4,)), layer])))

    one = digest("layer = " + call.format(2))
    moved = digest("# a comment\n\n\ndef f():\n    return " + call.format(2) + "\n\nlayer = f()")
    other, another = call.format(3), call.format(2).replace("*", "+")
    assert len({one, moved, digest(f"layer = {other}"), digest(f"layer = {another}")}) == 3
    assert one == moved


def test_subclasses_of_a_model_are_told_apart_by_their_layers():
    """Keras's own configuration of such a network names none of them."""

    class Mine(keras.Model):
        def __init__(self, rate=0.5):
            super().__init__()
            self.dropout = keras.layers.Dropout(rate)

    digests = []
    for rate in (0.5, 0.5, 0.4):
        keras.utils.clear_session()
        digests.append(runs.digest_of(models.compiled(Mine(rate))))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", ["models.py", "data.py", "train.py", "runs.py", "machine.py"])
def test_code_edited_since_it_was_loaded_trains_nothing(name, tmp_path, monkeypatch):
    """As in a notebook, whose modules stay loaded."""
    for path in PROJECT.glob("*.py"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    machine.refuse_edited_code()
    with open(tmp_path / name, "a") as file:
        file.write("# an edit\n")
    code, output, errors = run_main(NIN, "--epochs", 1, "--output", tmp_path / "results")
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert f"{name} changed after this process had loaded" in errors and "kernel" in errors
    assert list((tmp_path / "results").iterdir()) == []


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
    assert f"cannot save {run.state_file}: File too large" in errors and runs.GOES_ON in errors
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


def empty_run(tmp_path):
    """A run that has nothing but a place for its state."""
    run = runs.Run("any", 1, 0, tmp_path / "run")
    run.unfinished.mkdir()
    return run


def test_a_state_is_on_the_disk_before_it_replaces_the_earlier_and_its_name_after(steps, tmp_path):
    run = empty_run(tmp_path)
    runs.write_state(run, runs.State({}))
    assert steps == ["sync state.npz.tmp", "replace state.npz", *synced(run.unfinished)]


def test_what_a_virus_scanner_holds_for_a_moment_is_renamed_when_it_lets_go(tmp_path, monkeypatch):
    run, refusals = empty_run(tmp_path), [errno.EACCES] * 2
    rename = refusing(os.replace, errno.EACCES, lambda path: refusals and refusals.pop())
    monkeypatch.setattr(os, "replace", rename)
    runs.write_state(run, runs.State({}, history=[1]))
    assert refusals == [] and runs.read_state(run.state_file).history == [1]
    monkeypatch.setattr(os, "replace", refusing(os.replace, errno.EACCES, lambda path: True))
    with pytest.raises(machine.RunError, match="cannot save"):
        runs.write_state(run, runs.State({}, history=[2]))
    assert [path.name for path in run.unfinished.iterdir()] == ["state.npz"]


@posix
@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_disk_that_syncs_no_directories_is_used_as_it_is(reason, steps, monkeypatch, tmp_path):
    is_directory = lambda descriptor: os.path.isdir(f"/dev/fd/{descriptor}")  # noqa: E731
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, reason, is_directory))
    runs.write_state(empty_run(tmp_path), runs.State({}))
    assert steps == ["sync state.npz.tmp", "replace state.npz"]


@posix
def test_a_disk_that_fails_to_sync_is_told(interrupted, monkeypatch):
    run = interrupted()
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, errno.EIO, lambda descriptor: True))
    code, _, errors = go_on(run)
    assert (code, errors.count("\n")) == (1, 1)
    assert f"cannot save {run.unfinished}: {os.strerror(errno.EIO)}" in errors
