"""The runs in results/published/ are what they say: models, figures, plots and the READMEs."""

import os
import re
import shutil
from importlib.metadata import version

import keras
import matplotlib.image
import numpy as np
import post
import pytest
import report
from helpers import PROJECT, RESULT_FILES, history_of
from helpers import run as run_script

import machine
import plot
import runs
import train
from data import batches, load_mnist, split
from models import MODELS

REPORT = "results/published/README.md"
PUBLISHED = PROJECT / "results/published"
ALL_RUNS = sorted(path.parent for path in PUBLISHED.glob("*/metrics.json"))
RUNS = [run_dir for run_dir in ALL_RUNS if "-keras2.0.8-" not in run_dir.name]
# What the post does not have, and the parameters of it.
IMPROVED = {"deep_cnn_he": 136_310, "deep_cnn_bn": 137_510, "deep_cnn_dropout": 136_310}
# The first of each network, by today's rules.
FIRST = [PUBLISHED / f"{name}-100epochs-seed0" for name in report.NETWORKS]


@pytest.fixture(scope="module", params=RUNS, ids=lambda path: path.name)
def run_dir(request):
    return request.param


def test_it_is_the_authors_run_on_the_pinned_versions(run_dir):
    metrics, history = runs.read_run(run_dir)
    name = metrics["model"]
    suffix = "" if metrics["rules"] == "today" else f"-{metrics['rules']}"
    assert run_dir.name == f"{name}{suffix}-{metrics['epochs']}epochs-seed{metrics['seed']}"
    assert {path.name for path in run_dir.iterdir()} == RESULT_FILES
    assert metrics["epochs"] == post.EPOCHS
    assert metrics["parameters"] == (IMPROVED.get(name) or post.PARAMETERS[name][0])
    assert metrics.get("authors_test_accuracy") == post.TEST_ACCURACY.get(name)
    assert history["epoch"] == list(range(1, 101))
    for kind, function in (("median", np.median), ("mean", np.mean)):
        seconds = function(history["seconds"])  # the first runs hold them in metrics.json, too
        assert metrics.get(f"{kind}_seconds_per_epoch", seconds) == pytest.approx(seconds, abs=1e-3)
    assert metrics["batch_size"] == post.BATCH_SIZE
    assert metrics["validation_split"] == post.VALIDATION_SPLIT
    requirements = (PROJECT / "requirements.txt").read_text()
    for package in ("tensorflow", "keras", "numpy"):
        assert f"{package}=={metrics[package]}" in requirements
    labels, predictions = runs.read_predictions(run_dir)
    assert np.array_equal(labels, load_mnist()[1][1].argmax(axis=1))
    assert np.mean(labels == predictions) == pytest.approx(metrics["test_accuracy"], abs=1e-7)


@pytest.mark.skipif(keras.__version__ != "3.15.1", reason="another Keras may configure otherwise")
def test_their_networks_are_those_of_the_code_now():
    published = {}
    for run_dir in RUNS:
        metrics = runs.read_metrics(run_dir)
        digests = published.setdefault((metrics["model"], metrics["rules"]), set())
        digests.add(metrics["network_sha256"])
    for (name, rules), digests in published.items():
        model = train.build(runs.Run(name, post.EPOCHS, 0, None, rules))
        assert digests == {runs.digest_of(model)}, f"{name} by the rules of {rules}"


def test_they_are_small_enough():
    files = [path for path in PUBLISHED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 85_000_000


def device_then():
    """Return this device as the published runs name theirs: name and cores, and no more."""
    return re.sub(r" \(.*\),", ",", re.sub(r", [^,]+, (\d+ cores)$", r", \1", machine.device()))


def moved_images(metrics):
    """Return how many images another processor's rounding may move, or other instructions."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return 0 if ([device_then()], limit) == (metrics["devices"], "AVX2") else 2


def assert_model_is_the_trained_one(run_dir, images=10_000):
    """Exactly where it was trained; another processor's rounding may move an image or two.

    It is known by its predictions of the first `images`. Returns the model.
    """
    metrics = runs.read_metrics(run_dir)
    model = load_model(run_dir, metrics)
    found = {column: [] for column in ("prediction", "probability")}
    X, y = load_mnist()[1]
    for row in train.predict(model, X[:images], y[:images]):
        for column in found:
            found[column].append(row[column])
    table = runs.read_table(run_dir / "predictions.csv", 10_000)
    prediction, probability = table["prediction"][:images], table["probability"][:images]
    moved = np.not_equal(found["prediction"], prediction)
    assert np.count_nonzero(moved) <= moved_images(metrics)
    assert np.allclose(found["probability"], probability, rtol=0.01, atol=1e-3)
    return model


@pytest.mark.parametrize("run_dir", FIRST, ids=lambda path: path.name)
def test_model_of_each_network_has_the_predictions_of_its_run(run_dir):
    assert_model_is_the_trained_one(run_dir, images=500)


@pytest.mark.slow
@pytest.mark.parametrize("run_dir", ALL_RUNS, ids=lambda path: path.name)
def test_model_has_the_accuracies_of_its_run(run_dir):
    model = assert_model_is_the_trained_one(run_dir)
    metrics, history = runs.read_run(run_dir)
    _, (X, y) = split(*load_mnist()[0])
    found = model.predict(batches(X, y), verbose=0)
    accuracy = np.mean(found.argmax(axis=1) == y.argmax(axis=1))
    moved = abs(accuracy - history["val_accuracy"][-1]) * len(X)
    assert moved < moved_images(metrics) + 0.1


def load_model(run_dir, metrics):
    """Load it all, or on another Keras (3.12.4 rejects the layers of 3.15.1) its weights."""
    (path,) = run_dir.glob("model.*")
    if keras.__version__ == metrics["keras"]:
        return keras.models.load_model(path)
    model = MODELS[metrics["model"]]()
    model.load_weights(path)
    return model


@pytest.mark.parametrize("run_dir", [path for path in ALL_RUNS if path not in RUNS])
def test_a_run_in_keras_2_0_8_is_the_authors(run_dir):
    metrics, history = runs.read_run(run_dir)
    name = metrics["model"]
    assert run_dir.name == f"{name}-keras2.0.8-100epochs-seed{metrics['seed']}"
    files = {"history.csv", "metrics.json", "model.h5", "predictions.csv"}
    assert {path.name for path in run_dir.iterdir()} == files
    assert (metrics["epochs"], metrics["parameters"]) == (post.EPOCHS, post.PARAMETERS[name][0])
    assert (metrics["keras"], metrics["rules"]) == ("2.0.8", "2017")
    assert history["epoch"] == list(range(1, 101))
    labels, predictions = runs.read_predictions(run_dir)
    assert np.array_equal(labels, load_mnist()[1][1].argmax(axis=1))
    assert np.mean(labels == predictions) == pytest.approx(metrics["test_accuracy"], abs=1e-7)


def redrawn(pictures, tmp_path):
    """Tell how much each of these published pictures differs from one that is drawn anew."""
    shutil.copytree(PUBLISHED, tmp_path, dirs_exist_ok=True)
    every = report.read_all(tmp_path)
    for picture in pictures:
        again = tmp_path / picture.relative_to(PUBLISHED)
        again.unlink()
        if picture.stem == "comparison":
            report.plot_comparison(report.networks_of(every), again)
        elif picture.stem == "improvements":
            report.plot_improvements(report.improvements_of(every), again)
        elif picture.stem == "fall":
            report.plot_sets(report.sets_of(every), again)
        else:
            getattr(plot, f"plot_{picture.stem}")(again.parent)
        published, drawn = map(matplotlib.image.imread, (picture, again))
        yield np.mean(np.abs(published - drawn))


def test_plots_are_drawn_from_the_published_figures(tmp_path):
    pictures = [PUBLISHED / f"{name}.png" for name in ("comparison", "fall", "improvements")]
    pictures += [run_dir / f"{name}.png" for run_dir in FIRST for name in ("accuracy", "errors")]
    # 1.2e-5 or more if one accuracy is moved by 0.0001; 0 where they were drawn
    assert max(redrawn(pictures, tmp_path)) < 1e-5


@pytest.mark.slow
def test_all_plots_are_drawn_from_the_published_figures(tmp_path):
    pictures = [run_dir / f"{name}.png" for run_dir in RUNS for name in ("accuracy", "errors")]
    assert max(redrawn(pictures, tmp_path)) < 1e-5


@pytest.mark.parametrize(
    ("readme", "comparison"),
    [("README.md", "results/published/comparison.png"), (REPORT, "comparison.png")],
)
def test_readmes_show_pictures_that_are_there(readme, comparison):
    path = PROJECT / readme
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    assert comparison in pictures
    assert all((path.parent / picture).exists() for picture in pictures)


@pytest.mark.slow
@pytest.mark.parametrize("run_dir", FIRST, ids=lambda path: path.name)
def test_first_epochs_are_what_the_code_gives_now(run_dir, tmp_path):
    """Three minutes each. Skipped on other versions, processors and numbers of cores."""
    metrics = runs.read_metrics(run_dir)
    name = metrics["model"]
    here = {package: version(package) for package in ("tensorflow", "keras", "numpy")}
    here["devices"] = [device_then()]
    differences = {key: here[key] for key in here if here[key] != metrics[key]}
    if differences:
        pytest.skip(f"bit for bit only where it was trained; different here: {differences}")
    arguments = "train.py", name, "--epochs", 2, "--output", tmp_path
    code, _, errors = run_script(*arguments, env=metrics["environment"])
    assert (code, errors) == (0, "")
    assert history_of(tmp_path / f"{name}-2epochs-seed0") == history_of(run_dir)[:2]
