"""The runs published in results/ are what they say: their models, figures, plots and the README.

Whoever runs the 100 epochs of seed 0 replaces them; `git checkout results` brings them back.
"""

import shutil
import subprocess
import sys

import keras
import matplotlib.image
import numpy as np
import post
import pytest
from runs import PROJECT, RESULT_FILES, history_of

import plot
import train
from data import load_mnist
from models import MODELS

README = (PROJECT / "README.md").read_text()
PROSE = " ".join(README.split())  # wherever its lines break
RESULTS = PROJECT / "results"


@pytest.fixture(scope="module", params=post.SUMMARY)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def run_dir(name):
    return RESULTS / f"{name}-100epochs-seed0"


@pytest.fixture(scope="module")
def run(run_dir):
    return plot.read_run(run_dir)


@pytest.fixture(scope="module")
def metrics(run):
    return run[0]


@pytest.fixture(scope="module")
def history(run):
    return run[1]


def test_it_is_the_posts_run_on_the_pinned_versions(name, run_dir, metrics, history):
    assert {path.name for path in run_dir.iterdir()} >= RESULT_FILES
    assert (metrics["model"], metrics["seed"]) == (name, 0)
    assert (metrics["epochs"], metrics["parameters"]) == (post.EPOCHS, post.PARAMETERS[name][0])
    assert history["epoch"] == list(range(1, 101))
    seconds = np.median(history["seconds"])
    assert metrics["seconds_per_epoch"] == pytest.approx(seconds, abs=0.001)
    requirements = (PROJECT / "requirements.txt").read_text()
    for package in ("tensorflow", "keras", "numpy"):
        assert f"{package}=={metrics[package]}" in requirements


def test_model_has_the_accuracies_of_its_run(run_dir, metrics, history):
    """Exactly where it was trained; another processor's rounding may move an image or two."""
    model = load_model(run_dir / "model.keras", metrics)
    (X_train, y_train), (X_test, y_test) = load_mnist()
    n = train.training_images(X_train)
    images = 0 if train.processor() == metrics["processor"] else 2.1
    _, accuracy = model.evaluate(train.batches(X_test, y_test), verbose=0)
    assert abs(accuracy - metrics["test_accuracy"]) <= images / len(X_test)
    _, accuracy = model.evaluate(train.batches(X_train[n:], y_train[n:]), verbose=0)
    assert abs(accuracy - history["val_accuracy"][-1]) <= images / len(X_train[n:])


def load_model(path, metrics):
    """Load it all, or on another Keras (3.12.4 rejects the layers of 3.15.1) its weights."""
    if keras.__version__ == metrics["keras"]:
        return keras.models.load_model(path)
    model = MODELS[metrics["model"]]()
    model.load_weights(path)
    return model


def test_readme_has_the_figures_of_the_run(name, run_dir, metrics):
    accuracy = metrics["test_accuracy"]
    low, high = plot.interval(accuracy)
    assert low < post.TEST_ACCURACY[name] < high  # as the README says
    row = (
        f"| {name} | {metrics['parameters']:,} | {post.TEST_ACCURACY[name]:.4f} "
        f"| {accuracy:.4f} ({low:.4f} to {high:.4f}) | {metrics['seconds_per_epoch']:.0f} s |"
    )
    assert row in README.splitlines()
    assert f"(results/{run_dir.name}/accuracy.png)" in README


def test_readme_tells_how_the_training_went(name, history):
    accuracy = np.array(history["val_accuracy"])
    falls = np.nonzero(np.diff(accuracy) <= -0.005)[0] + 1  # indices: epochs count from 1
    assert (accuracy[falls + 1] > accuracy[falls - 1] - 0.0005).all()
    *epochs, last = falls + 1
    assert f"{', '.join(map(str, epochs))} and {last} of `{name}`" in PROSE
    end = accuracy[50:]
    assert f"`{name}` {np.median(end):.4f} ({end.min():.4f} to {end.max():.4f})" in PROSE


def test_readme_compares_the_two_runs():
    runs = [plot.read_run(RESULTS / run_dir)[0] for run_dir in plot.PUBLISHED]
    for key, sentence in (
        ("test_accuracy", "Of the 10,000 test images {1} instead of {0} are wrong"),
        ("post_test_accuracy", "in the post, {1} instead of {0}"),
    ):
        assert sentence.format(*(round(10_000 * (1 - metrics[key])) for metrics in runs)) in PROSE


def test_plots_are_drawn_from_the_published_figures(tmp_path):
    shutil.copytree(RESULTS, tmp_path / "results")
    subprocess.run([sys.executable, PROJECT / "plot.py"], cwd=tmp_path, check=True)
    for picture in ("comparison.png", *(f"{run}/accuracy.png" for run in plot.PUBLISHED)):
        published, drawn = (
            matplotlib.image.imread(results / picture)
            for results in (RESULTS, tmp_path / "results")
        )
        # 1.2e-5 or more if one accuracy is moved by 0.0001; 0 where they were drawn
        assert np.mean(np.abs(published - drawn)) < 1e-5
    assert "(results/comparison.png)" in README


@pytest.mark.slow
def test_first_epochs_are_what_the_code_gives_now(name, run_dir, metrics, tmp_path):
    """Six minutes for both. Skipped on other versions, processors and numbers of cores."""
    here = {**train.run_settings(name, 0), "numpy": np.__version__, "processor": train.processor()}
    differences = {key: here[key] for key in here if here[key] != metrics[key]}
    if differences:
        pytest.skip(f"bit for bit only where it was trained; different here: {differences}")
    command = [sys.executable, PROJECT / "train.py", name, "--epochs", "2", "--output", tmp_path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert history_of(tmp_path / f"{name}-2epochs-seed0") == history_of(run_dir)[:2]
