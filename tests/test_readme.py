"""The README's snippets and commands do what it says, as they stand."""

import re
import shutil

import keras
import numpy as np
import pytest
import report
import test_networks
from helpers import PROJECT, run

import machine
import models
import runs
import train
from data import load_mnist

README = (PROJECT / "README.md").read_text(encoding="utf-8")
KOREAN = (PROJECT / "README.ko.md").read_text(encoding="utf-8")
OLD_LOSS = "rules of 2017", "loss of 2017", "Keras 2.0.8 itself"
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
    before, _ = README.split("python3 -m venv")
    assert len(re.sub(r"\(http.*?\)|[#`]", "", before).split()) < 100


def test_the_korean_readme_has_the_same_code():
    found = re.findall(r"```\w+\n.*?```", KOREAN, re.DOTALL)
    assert len(found) == 7 and all(block in README for block in found)


def test_the_korean_readme_names_mistakes_as_they_are_named():
    named = re.findall(r"`(\S+ of models\.py .*?)(?: \.\.\.)?` \|", KOREAN)
    parts = [part for _, part in test_networks.REFUSED.values()]
    assert len(named) == 8
    for line in named:
        mistake = line.split(".py ")[1].removesuffix(", ...").removesuffix(": ...")
        assert any(part.startswith(mistake) or mistake.startswith(part) for part in parts)
    (line,) = (block for block in blocks("text") if "train.py: " in block)
    assert line.removeprefix("train.py: my_cnn of models.py ").strip() in parts


def test_the_first_paragraphs_count_the_runs():
    every = report.read_all(report.PUBLISHED)
    sets = report.sets_of(every)
    failed = {name: sets[name].failed for name in sets}
    then = failed["rules of 2017"], failed["loss of 2017"]
    assert [(sum(ends), len(ends)) for ends in then] == [(2, 3), (2, 3)]
    assert "again in 2 of 3 runs, with their loss alone in 2 of 3;" in flat(README)
    assert "3번 중 2번, 손실 함수만 그때 것으로 바꿔도 3번 중 2번" in flat(KOREAN)
    posts = [run for one in report.networks_of(every, "-2017")[1:] for run in one.failed]
    assert (sum(posts), len(posts)) == (0, 4)
    assert "two networks never did (4 runs)" in flat(README) and "4번 중 한 번도" in flat(KOREAN)
    with_it = [run for name in sets if name in OLD_LOSS for run in failed[name]]
    without = [run for name in sets if name not in OLD_LOSS for run in failed[name]]
    assert [sum(with_it), len(with_it), sum(without), len(without)] == [6, 8, 0, 6]
    assert "in 6 of 8 runs" in flat(README) and "in none of 6 with today's loss" in flat(README)
    assert "8번 중 6번" in flat(KOREAN) and "6번 중 한 번도" in flat(KOREAN)


def flat(text):
    return " ".join(text.split())


def test_the_table_of_networks_is_the_reports():
    for network in report.networks_of(report.read_all(report.PUBLISHED)):
        n = len(network.accuracies)
        row = (
            f"| {network.name} | {network.metrics[0]['parameters']:,} "
            f"| {network.authors_accuracy:.4f} | {np.mean(network.accuracies):.4f} "
        )
        assert f"{row}(mean of {n}) |" in README and f"{row}({n}회 평균) |" in KOREAN


def test_the_network_of_ones_own(snippet):
    names = {**vars(models), "MODELS": {}}
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


def drawn(digit, kind):
    """Return a digit of MNIST as a reader may have it, an image of Pillow."""
    from PIL import Image, ImageOps

    if kind == "28 x 28":
        return Image.fromarray(digit)
    light = Image.fromarray(digit).resize((280, 280), Image.Resampling.BICUBIC)
    if kind == "transparent":
        dark = Image.new("RGBA", light.size, "black")
        dark.putalpha(light)
        return dark
    paper = Image.new("RGB", (500, 400), "beige")
    paper.paste("navy", (200, 20), light)
    return {"280 x 280": light, "black on white": ImageOps.invert(light), "on paper": paper}[kind]


@pytest.mark.parametrize(
    "kind", ["28 x 28", "280 x 280", "black on white", "transparent", "on paper"]
)
@pytest.mark.skipif(keras.__version__ != "3.15.1", reason="as the README says, it cannot load it")
def test_the_network_on_ones_own_digit(kind, snippet, tmp_path):
    _, (images, labels) = load_mnist()
    picture = drawn(images[0, :, :, 0], kind)
    picture.save(tmp_path / "my_digit.png", "JPEG" if kind == "on paper" else "PNG")
    found = snippet("my_digit.png", {})
    assert re.fullmatch(rf"a {labels[0].argmax()}, p = (1\.00|0\.9\d)\n", found)


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
    shown = blocks("text")[0]
    if f"Device: {machine.device()}\n" not in shown:
        pytest.skip("bit for bit only on the processor that the README names")
    code, output, errors = run("train.py", "--epochs", 1, "--output", "results", cwd=tmp_path)
    assert (code, errors) == (0, "")

    def without_times(text):
        return [re.sub(r" - \d+ s.*", "", line) for line in text.splitlines()]

    assert set(without_times(shown)) - set(without_times(output)) == {"..."}
