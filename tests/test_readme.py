"""The README's snippets and commands do what it says, as they stand."""

import re
import shutil

import keras
import matplotlib.image
import numpy as np
import pytest
import report
from helpers import PROJECT, run

import machine
import models
import runs
import train
from data import load_mnist

README = (PROJECT / "README.md").read_text(encoding="utf-8")
RUN = PROJECT / "results/published/deep_cnn_advanced-100epochs-seed0"


def blocks(language):
    """Return the blocks of code in the README, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def snippet(tmp_path, monkeypatch, capsys):
    """A function that runs the snippet in which a text occurs, and returns what it prints."""
    here = tmp_path / RUN.relative_to(PROJECT)
    shutil.copytree(RUN, here)
    monkeypatch.chdir(tmp_path)

    def run_snippet(part, names):
        (code,) = [block for block in blocks("python") if part in block]
        exec(code, names)
        return capsys.readouterr().out

    return run_snippet


def test_the_first_command_comes_in_the_first_hundred_words():
    before, _ = README.split("git clone")
    assert len(re.sub(r"\(http.*?\)|[#`]", "", before).split()) < 100


def test_the_table_of_networks_is_the_reports():
    networks, _, _ = report.read_all(report.PUBLISHED)
    for network in networks:
        row = (
            f"| {network.name} | {network.metrics[0]['parameters']:,} "
            f"| {network.authors_accuracy:.4f} "
            f"| {np.mean(network.accuracies):.4f} (mean of {len(network.accuracies)}) |"
        )
        assert row in README


def test_the_network_of_ones_own(snippet):
    names = {**vars(models), "MODELS": dict(models.MODELS)}
    snippet("def my_cnn", names)
    assert list(names["MODELS"])[-1] == "my_cnn"
    model = names["MODELS"]["my_cnn"]()
    assert model.output_shape == (None, 10) and model.optimizer.learning_rate.numpy() > 0


def test_the_table_of_digits_and_the_histories(snippet):
    names = {}
    output = snippet("np.add.at", names)
    labels, predictions = runs.read_predictions(RUN)
    assert names["table"].trace() == np.count_nonzero(labels == predictions)
    assert names["table"].sum(axis=1).tolist() == np.bincount(labels).tolist()
    metrics, history = runs.read_run(str(RUN))
    assert output.splitlines()[-1] == f"{metrics['test_accuracy']} {max(history['val_accuracy'])}"


@pytest.mark.parametrize("shape", ["gray and alpha", "gray"])
@pytest.mark.skipif(keras.__version__ != "3.15.1", reason="as the README says, it cannot load it")
def test_the_network_on_ones_own_digit(shape, snippet, tmp_path):
    _, (images, labels) = load_mnist()
    digit = images[0, :, :, 0]
    if shape == "gray":
        from PIL import Image  # Matplotlib's; its own imsave writes colors only

        Image.fromarray(digit).save(tmp_path / "my_digit.png")
    else:
        matplotlib.image.imsave(tmp_path / "my_digit.png", digit, cmap="gray")
    assert snippet("my_digit.png", {}) == f"a {labels[0].argmax()}, p = 1.00\n"


def test_scaled_digits_are_all_taken_for_a_one():
    model = models.MODELS["deep_cnn_advanced"]()
    model.load_weights(RUN / "model.keras")
    _, (images, _) = load_mnist()
    found = model.predict(images[:100] / 255, verbose=0)
    assert set(found.argmax(axis=1)) == {1} and f"{found.max(axis=1).min():.2f}" == "1.00"


def test_the_weights_alone(snippet):
    names = {}
    snippet("load_weights", names)
    _, (images, _) = load_mnist()
    found = names["model"].predict(images[:500], verbose=0).argmax(axis=1)
    assert np.array_equal(found, runs.read_predictions(RUN)[1][:500])


def test_the_notebooks_call(tmp_path, monkeypatch):
    (code,) = [block for block in blocks("python") if "train.main(" in block]
    found = []
    monkeypatch.setattr(train, "look_at", lambda asked_for, *_: found.extend(asked_for) or {})
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert [(run.model, run.epochs) for run in found] == [("deep_cnn", 1)]


@pytest.mark.slow
def test_the_first_command_prints_what_the_readme_shows(tmp_path):
    """Three minutes; but for the seconds."""
    (shown,) = blocks("text")
    if f"Device: {machine.device()}\n" not in shown:
        pytest.skip("bit for bit only on the processor that the README names")
    code, output, errors = run("train.py", "--epochs", 1, "--output", "results", cwd=tmp_path)
    assert (code, errors) == (0, "")

    def without_times(text):
        return [re.sub(r" - \d+ s.*", "", line) for line in text.splitlines()]

    assert set(without_times(shown)) - set(without_times(output)) == {"..."}
