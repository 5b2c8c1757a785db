"""The runs in results/published/ are what they say: models, figures, plots and the README."""

import re
import shutil

import keras
import matplotlib.image
import numpy as np
import post
import pytest
from runs import PROJECT, RESULT_FILES, history_of
from runs import run as run_script

import plot
import train
from data import batches, load_mnist, split
from models import MODELS

README = (PROJECT / "README.md").read_text()
LINES = [line.strip() for line in README.splitlines()]
PUBLISHED = PROJECT / "results/published"


@pytest.fixture(scope="module", params=post.SUMMARY)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def run_dir(name):
    return PUBLISHED / f"{name}-100epochs-seed0"


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
    assert metrics["batch_size"] == post.BATCH_SIZE
    assert metrics["validation_split"] == post.VALIDATION_SPLIT
    requirements = (PROJECT / "requirements.txt").read_text()
    for package in ("tensorflow", "keras", "numpy"):
        assert f"{package}=={metrics[package]}" in requirements


def assert_accuracy(run_dir, metrics, images_and_labels, expected):
    """Exactly where it was trained; another processor's rounding may move an image or two."""
    X, y = images_and_labels
    _, accuracy = load_model(run_dir / "model.keras", metrics).evaluate(batches(X, y), verbose=0)
    images = 0 if [train.device()] == metrics["devices"] else 2.1
    assert abs(accuracy - expected) <= images / len(X)


def test_model_has_the_test_accuracy_of_its_run():
    """The other network's is that of the README's snippet, below."""
    run_dir = PUBLISHED / "deep_cnn_advanced_nin-100epochs-seed0"
    metrics, _ = plot.read_run(run_dir)
    assert_accuracy(run_dir, metrics, load_mnist()[1], metrics["test_accuracy"])


@pytest.mark.slow
def test_model_has_the_accuracies_of_its_run(run_dir, metrics, history):
    train_set, test_set = load_mnist()
    _, validation = split(*train_set)
    assert_accuracy(run_dir, metrics, test_set, metrics["test_accuracy"])
    assert_accuracy(run_dir, metrics, validation, history["val_accuracy"][-1])


def load_model(path, metrics):
    """Load it all, or on another Keras (3.12.4 rejects the layers of 3.15.1) its weights."""
    if keras.__version__ == metrics["keras"]:
        return keras.models.load_model(path)
    model = MODELS[metrics["model"]]()
    model.load_weights(path)
    return model


def test_readme_has_the_figures_of_the_run(name, metrics, history):
    in_post, here = post.TEST_ACCURACY[name], metrics["test_accuracy"]
    wrong = [round(10_000 * (1 - accuracy)) for accuracy in (in_post, here)]
    row = f"| {name} | {metrics['parameters']:,} | {in_post:.4f} | {here:.4f} "
    assert row + f"| {wrong[0]} | {wrong[1]} |" in LINES

    accuracy = np.array(history["val_accuracy"])
    falls = np.nonzero(np.diff(accuracy) <= -0.005)[0] + 2  # the epochs, counted from 1
    end = accuracy[50:]
    row = f"| {name} | {np.median(end):.4f} ({end.min():.4f} to {end.max():.4f}) "
    assert row + f"| {', '.join(map(str, falls))} |" in LINES


def test_readmes_snippet(capsys, monkeypatch):
    """Run it as it stands, in the project's directory."""
    metrics, _ = plot.read_run(PUBLISHED / "deep_cnn_advanced-100epochs-seed0")
    if keras.__version__ != metrics["keras"]:
        pytest.skip("as the README says, another Keras may reject the file")
    monkeypatch.chdir(PROJECT)
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(snippet, {})
    first, *wrong = capsys.readouterr().out.splitlines()
    assert first == f"test accuracy {metrics['test_accuracy']:.4f}"
    assert len(wrong) == round(10_000 * (1 - metrics["test_accuracy"]))
    _, (_, digits) = load_mnist()
    for line in wrong:
        image, digit, found = map(int, re.findall(r"\d+", line))
        assert digits[image].argmax() == digit != found


def test_plots_are_drawn_from_the_published_figures(tmp_path):
    shutil.copytree(PUBLISHED, tmp_path / "published")
    plot.main([str(tmp_path / "published")])
    for picture in ("comparison.png", *(f"{run}/accuracy.png" for run in plot.POST_RUNS)):
        published, drawn = (
            matplotlib.image.imread(results / picture)
            for results in (PUBLISHED, tmp_path / "published")
        )
        # 1.2e-5 or more if one accuracy is moved by 0.0001; 0 where they were drawn
        assert np.mean(np.abs(published - drawn)) < 1e-5
    assert "(results/published/comparison.png)" in README


@pytest.mark.slow
def test_first_epochs_are_what_the_code_gives_now(name, run_dir, metrics, tmp_path):
    """Six minutes for both. Skipped on other versions, processors and numbers of cores."""
    this = train.Run(name, 2, 0, tmp_path / f"{name}-2epochs-seed0")
    here = train.settings(this) | {"numpy": np.__version__, "devices": [train.device()]}
    differences = {key: here[key] for key in here if here[key] != metrics[key]}
    if differences:
        pytest.skip(f"bit for bit only where it was trained; different here: {differences}")
    code, _, errors = run_script("train.py", name, "--epochs", 2, "--output", tmp_path)
    assert (code, errors) == (0, "")
    assert history_of(this.directory) == history_of(run_dir)[:2]
