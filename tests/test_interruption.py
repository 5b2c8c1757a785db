"""A run that is interrupted goes on where it stopped, bit for bit, and loses nothing."""

import random
import resource
import shutil
import signal
import time

import numpy as np
import pytest
from runs import NIN, RESULT_FILES, history_of, run_small, same_run, start_small, stop_after_epoch

STATE = "state.npz"


def small_run(output, epochs=3, **options):
    return run_small(NIN, "--epochs", epochs, "--output", output, **options)


def interrupted_run(output, epochs=3, after=1, number=signal.SIGKILL):
    """Interrupt a run after an epoch; return its directory, with its state in it."""
    code, *_ = stop_after_epoch(after, NIN, "--epochs", epochs, "--output", output, signal=number)
    assert code == -number
    run_dir = output / f"{NIN}-{epochs}epochs-seed0"
    assert {path.name for path in run_dir.iterdir()} - {f"{STATE}.tmp"} == {STATE}
    return run_dir


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run directory with the state after the first of three epochs; tests copy it."""
    return interrupted_run(tmp_path_factory.mktemp("unfinished"))


@pytest.fixture
def run_dir(unfinished, tmp_path):
    return shutil.copytree(unfinished, tmp_path / unfinished.name)


def test_goes_on_after_a_kill(run_dir, three_epochs):
    code, output, errors = small_run(run_dir.parent)
    assert (code, errors) == (0, "")
    assert "resuming after epoch 1 of 3\n" in output
    assert "Epoch 1/3" not in output and "Epoch 2/3" in output
    assert {path.name for path in run_dir.iterdir()} == RESULT_FILES
    assert same_run(run_dir, three_epochs)


def test_a_command_of_two_models_does_not_train_the_finished_one_again(tmp_path):
    """Killed in the first epoch of the second model, whose directory may hold older results."""
    command = "--epochs", 1, "--output", tmp_path
    first, second = (tmp_path / f"{name}-1epochs-seed0" for name in ("deep_cnn_advanced", NIN))
    second.mkdir()
    (second / "metrics.json").write_text("of an earlier run\n")
    process = start_small(*command)
    for line in process.stdout:
        if line == f"Results: {first}\n":
            process.kill()
    assert process.wait() == -signal.SIGKILL
    assert {path.name for path in first.iterdir()} == RESULT_FILES
    before = {path: path.read_bytes() for path in first.iterdir()}

    code, output, errors = run_small(*command)
    assert (code, errors) == (0, "")
    assert f"deep_cnn_advanced is finished: {first}\n" in output
    assert output.count("Epoch 1/1") == 1
    assert {path: path.read_bytes() for path in first.iterdir()} == before
    assert {path.name for path in second.iterdir()} == RESULT_FILES

    # Nothing is unfinished now: the same command is a new run of both.
    code, output, _ = run_small(*command)
    assert (code, output.count("Epoch 1/1")) == (0, 2)


# Killed at random moments

KILL_RUN = {"TRAIN_IMAGES": "125"}
KILL_EPOCHS = 12


def wait_for_random_moment(process, run_dir, generator):
    """Wait for a moment to kill: while the state is being written, or any other."""
    if generator.random() < 0.5:
        temporary = run_dir / f"{STATE}.tmp"
        skip = generator.randrange(3)
        present = False
        while process.poll() is None:
            if temporary.exists() != present:
                present = not present
                if present and skip == 0:
                    return
                skip -= present
    else:
        end = time.monotonic() + generator.uniform(0, 10)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)


def assert_survives_kills(tmp_path, kills, seed):
    """Kill runs until there were `kills` kills; each run must end as one without any."""
    arguments = NIN, "--epochs", KILL_EPOCHS
    name = f"{NIN}-{KILL_EPOCHS}epochs-seed0"
    assert run_small(*arguments, "--output", tmp_path / "whole", env=KILL_RUN)[0] == 0
    generator = random.Random(seed)
    done = runs = 0
    while done < kills:
        runs += 1
        output = tmp_path / str(runs)
        while True:
            process = start_small(*arguments, "--output", output, env=KILL_RUN)
            if done < kills:
                wait_for_random_moment(process, output / name, generator)
                process.kill()
            _, errors = process.communicate()
            if process.returncode == 0:
                break
            assert (process.returncode, errors) == (-signal.SIGKILL, "")
            done += 1
        assert {path.name for path in (output / name).iterdir()} == RESULT_FILES
        assert same_run(output / name, tmp_path / "whole" / name)
    print(f"{done} kills in {runs} runs")


def test_survives_kills_at_random_moments(tmp_path):
    assert_survives_kills(tmp_path, kills=5, seed=0)


@pytest.mark.slow
def test_survives_25_kills_at_random_moments(tmp_path):
    assert_survives_kills(tmp_path, kills=25, seed=time.time_ns())


# Asked to stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_with_one_line(number, tmp_path):
    code, _, errors = stop_after_epoch(1, NIN, "--epochs", 50, "--output", tmp_path, signal=number)
    assert code == 128 + number
    assert errors == (
        f"stopped by {number.name}; the same command goes on after the last finished epoch\n"
    )
    assert (tmp_path / f"{NIN}-50epochs-seed0" / STATE).exists()


def test_stops_with_one_line_while_tensorflow_starts(tmp_path):
    process = start_small(NIN, "--output", tmp_path)
    while not (tmp_path / f"{NIN}-100epochs-seed0").exists():
        time.sleep(0.01)
    time.sleep(1)
    process.terminate()
    output, errors = process.communicate()
    assert (process.returncode, output, errors.count("\n")) == (143, "", 1)


# States that are not this run's


def resave(path, **changes):
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, **changes})


def state_of_another_program(path):
    np.savez(path, weights=np.zeros(3))


BAD_STATES = {
    "empty": (lambda path: path.write_bytes(b""), "no whole state"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "no whole state"),
    "half": (lambda path: path.write_bytes(path.read_bytes()[:500_000]), "no whole state"),
    "text": (lambda path: path.write_text("not ours\n"), "no whole state"),
    "another program's": (state_of_another_program, "no whole state"),
    "objects": (lambda path: resave(path, run=np.array({}, dtype=object)), "no whole state"),
    "no JSON": (lambda path: resave(path, run="{"), "no whole state"),
    "a bare list": (lambda path: resave(path, run="[]"), "no whole state"),
}


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BAD_STATES["one bit"] = (flip_a_bit, "no whole state")


@pytest.mark.parametrize("case", BAD_STATES)
def test_damaged_state_is_told_and_kept(case, run_dir):
    damage, part = BAD_STATES[case]
    damage(run_dir / STATE)
    assert_refused(run_dir, part)


def assert_refused(run_dir, *parts, arguments=()):
    before = (run_dir / STATE).read_bytes()
    code, output, errors = run_small(
        *(arguments or (NIN, "--epochs", 3)), "--output", run_dir.parent
    )
    assert (code, output, errors.count("\n")) == (1, "", 1), errors
    for part in (str(run_dir / STATE), "move that file away", *parts):
        assert part in errors
    assert (run_dir / STATE).read_bytes() == before


def test_state_of_another_seed_is_refused(run_dir):
    other = run_dir.rename(run_dir.with_name(f"{NIN}-3epochs-seed1"))
    assert_refused(other, "seed is 0", arguments=(NIN, "--epochs", 3, "--seed", 1))


def test_state_of_another_model_is_refused(run_dir):
    other = run_dir.rename(run_dir.with_name("deep_cnn_advanced-3epochs-seed0"))
    assert_refused(other, f"model is {NIN}", arguments=("deep_cnn_advanced", "--epochs", 3))


def test_state_of_another_version_is_refused(run_dir):
    with np.load(run_dir / STATE) as arrays:
        run = str(arrays["run"])
    resave(run_dir / STATE, run=run.replace('"keras": "3', '"keras": "2'))
    assert_refused(run_dir, "keras is 2")


def test_state_of_other_layers_is_refused(run_dir):
    with np.load(run_dir / STATE) as arrays:
        changed = {"0": arrays["0"][..., :-1]}
    resave(run_dir / STATE, **changed)
    code, _, errors = small_run(run_dir.parent)
    assert (code, errors.count("\n")) == (1, 1)
    assert str(run_dir / STATE) in errors


def test_bad_state_of_the_second_model_is_told_before_the_first_is_trained(run_dir):
    (run_dir / STATE).write_bytes(b"")
    assert_refused(run_dir, "no whole state", arguments=("--epochs", 3))


# More epochs than the state was made for


def test_state_moved_to_a_longer_run_goes_on(tmp_path, three_epochs):
    shorter = interrupted_run(tmp_path, epochs=2)
    longer = shorter.rename(shorter.with_name(three_epochs.name))
    code, output, _ = small_run(tmp_path)
    assert code == 0 and "resuming after epoch 1 of 3\n" in output
    assert same_run(longer, three_epochs)


def test_state_of_more_epochs_than_asked_for_is_refused(tmp_path):
    longer = interrupted_run(tmp_path, after=2)
    shorter = longer.rename(longer.with_name(f"{NIN}-1epochs-seed0"))
    assert_refused(shorter, "2 epochs", arguments=(NIN, "--epochs", 1))


# No room to save


@pytest.mark.parametrize(
    ("limit", "part"),
    [(0, "cannot start TensorFlow"), (300_000, f"{STATE}: File too large")],
)
def test_full_disk(run_dir, three_epochs, limit, part):
    """A limit on the size of a file stands for the full disk: writing fails as it does there."""
    before = (run_dir / STATE).read_bytes()
    code, _, errors = small_run(
        run_dir.parent,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (code, errors.count("\n")) == (1, 1), errors
    assert part in errors
    assert (run_dir / STATE).read_bytes() == before
    assert {path.name for path in run_dir.iterdir()} == {STATE}
    assert small_run(run_dir.parent)[0] == 0
    assert same_run(run_dir, three_epochs)


def test_no_room_for_the_results(tmp_path, three_epochs):
    """The state still fits, the larger results do not: nothing is in place until all are."""
    run_dir = interrupted_run(tmp_path, after=2)
    limit = (run_dir / STATE).stat().st_size + 10_000
    code, _, errors = small_run(
        tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert (code, errors.count("\n")) == (1, 1), errors
    assert f"cannot save {run_dir}" in errors
    assert not RESULT_FILES & {path.name for path in run_dir.iterdir()}
    code, output, _ = small_run(tmp_path)
    assert code == 0 and "resuming after epoch 3 of 3" in output
    assert {path.name for path in run_dir.iterdir()} == RESULT_FILES
    assert same_run(run_dir, three_epochs)


# Results of an earlier run


def test_earlier_results_stay_until_the_new_run_is_complete(tmp_path, three_epochs):
    run_dir = shutil.copytree(three_epochs, tmp_path / three_epochs.name)
    (run_dir / "history.csv").write_text("an earlier run\n")
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    code, *_ = stop_after_epoch(1, NIN, "--epochs", 3, "--output", tmp_path, signal=signal.SIGKILL)
    assert code == -signal.SIGKILL
    for name, content in before.items():
        assert (run_dir / name).read_bytes() == content
    assert small_run(tmp_path)[0] == 0
    assert {path.name for path in run_dir.iterdir()} == RESULT_FILES
    assert history_of(run_dir) == history_of(three_epochs)
