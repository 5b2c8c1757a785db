"""The report's table of then and now is what facts.py printed then, and prints today."""

import itertools
import re

import pytest
from helpers import PROJECT, run

import plot

README = (PROJECT / "results/published/README.md").read_text(encoding="utf-8").splitlines()


def parsed(output):
    """Return the version and the facts, pairs of names and texts."""
    version, *facts = output.splitlines()
    return version, [tuple(fact.split(": ", 1)) for fact in facts]


@pytest.fixture(scope="module")
def then():
    return parsed((PROJECT / "results/keras_2017/facts.txt").read_text())


@pytest.fixture(scope="module")
def today():
    """In a process of its own, in which nothing has been seeded."""
    code, output, errors = run("results/keras_2017/facts.py", env={"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert code == 0, errors
    return parsed(output)


def test_then_is_the_keras_of_october_2017(then):
    assert then[0] == "Keras 2.0.8 on TensorFlow 1.3.0"


def test_readmes_table_is_what_was_and_is(then, today):
    start = next(i for i, line in enumerate(README) if line.startswith(f"| | {then[0]} | "))
    table = itertools.takewhile(lambda line: line.startswith("|"), README[start + 2 :])
    assert [name for name, _ in then[1]] == [name for name, _ in today[1]]
    assert list(table) == [
        f"| {name} | {before} | {now} |"
        for (name, before), (_, now) in zip(then[1], today[1], strict=True)
    ]


def test_readme_names_the_keras_that_is_pinned():
    requirements = (PROJECT / "requirements.txt").read_text()
    pins = dict(line.split(";")[0].split("==") for line in requirements.splitlines()[1:3])
    versions = f"Keras {pins['keras']} on TensorFlow {pins['tensorflow']}"
    assert any(line.endswith(f"| {versions} |") for line in README)


def test_readmes_table_of_the_first_two_epochs():
    """The first run in that Keras, beside the published runs."""
    version, *lines = (PROJECT / "results/keras_2017/training.txt").read_text().splitlines()
    assert version == "Keras 2.0.8 on TensorFlow 1.3.0"
    epochs = [
        re.fullmatch(r"(\w+), epoch (\d): accuracy (\S+), validation (\S+), (\d+) s", line).groups()
        for line in lines
    ]
    assert [epoch[1] for epoch in epochs] == ["1", "2", "1", "2"]
    for name, epoch, accuracy, validation, seconds in epochs:
        run_dir = PROJECT / f"results/published/{name}-100epochs-seed0"
        history = {key: values[int(epoch) - 1] for key, values in plot.read_run(run_dir)[1].items()}
        assert (
            f"| {name} | {epoch} | {accuracy} | {history['accuracy']:.4f} "
            f"| {validation} | {history['val_accuracy']:.4f} "
            f"| {seconds} | {history['seconds']:.0f} |"
        ) in README
