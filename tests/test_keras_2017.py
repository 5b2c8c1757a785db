"""The report's table of then and now is what facts.py printed then, and prints today."""

import re

import facts
import keras
import numpy as np
import pytest
from helpers import PROJECT, run

import models
import runs
import train
from data import load_mnist

README = (PROJECT / "results/published/README.md").read_text(encoding="utf-8").splitlines()
THEN = "Keras 2.0.8 on TensorFlow 1.3.0"


def parsed(output):
    """Return the version and the facts, a dict of names and texts."""
    version, *facts = output.splitlines()
    return version, dict(fact.split(": ", 1) for fact in facts)


@pytest.fixture(scope="module")
def then():
    version, facts = parsed((PROJECT / "results/keras_2017/facts.txt").read_text())
    assert version == THEN
    return facts


@pytest.fixture(scope="module")
def today():
    """In a process of its own, in which nothing has been seeded."""
    code, output, errors = run("results/keras_2017/facts.py")
    assert (code, errors) == (0, "")
    return parsed(output)[1]


def test_readmes_table_is_what_was_and_is(then, today):
    requirements = (PROJECT / "requirements.txt").read_text()
    pins = dict(line.split(";")[0].split("==") for line in requirements.splitlines()[1:3])
    now = f"Keras {pins['keras']} on TensorFlow {pins['tensorflow']}"
    start = README.index(f"| | {THEN} | {now} |") + 2
    assert list(then) == list(today)
    rows = [f"| {name} | {then[name]} | {today[name]} |" for name in then]
    assert README[start : start + len(rows) + 1] == [*rows, ""]


def test_readme_tells_of_two_epochs_in_that_keras():
    """The first run in it, beside the published runs: validation after the second epoch."""
    version, *lines = (PROJECT / "results/keras_2017/training.txt").read_text().splitlines()
    assert version == THEN
    found = []
    for name, line in zip(("deep_cnn_advanced", "deep_cnn_advanced_nin"), lines[1::2], strict=True):
        assert line.startswith(f"{name}, epoch 2: ")
        history = runs.read_run(PROJECT / f"results/published/{name}-100epochs-seed0")[1]
        validation = re.search(r"validation (\S+),", line)[1]
        found.append((validation, f"{history['val_accuracy'][1]:.4f}"))
    then, here = map(" and ".join, zip(*found, strict=True))
    text = " ".join(" ".join(README).split())
    assert f"the post's two networks are {then} (" in text and f"here they are {here}." in text


# Today's Keras by the rules of then


RULES = {  # when Keras had the loss, Adam's epsilon and he_normal
    "today": ("today", "today", "today"),
    "2017": ("then", "then", "then"),
    "2017-loss": ("then", "today", "today"),
    "2017-epsilon": ("today", "then", "today"),
}


def test_these_are_all_rules():
    assert list(models.RULES) == list(RULES)


@pytest.mark.parametrize("rules", RULES)
def test_rules_are_what_keras_did(rules, then, today):
    """The very facts that each Keras printed, measured on the parts of a network."""
    network = models.under_rules(models.deep_cnn_advanced(), rules)
    adam = type(network.optimizer).from_config(network.optimizer.get_config())
    loss, gradient = facts.loss_and_gradient(1e-9, network.loss)
    he_normal = facts.he_normal(network.layers[0].kernel_initializer)
    of_loss, of_adam, of_weights = ({"then": then, "today": today}[when] for when in RULES[rules])
    assert f"{loss:.2f}" == of_loss["loss of an image whose digit has p = 1e-9"]
    assert f"{gradient:.2f}" == of_loss["its gradient at the digit's logit"]
    assert f"{facts.adam_epsilon(adam):.0e}" == of_adam["Adam's epsilon"]
    assert f"{he_normal:.2f} sqrt(2 / fan-in)" == of_weights["standard deviation of he_normal"]


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.999])
def test_the_loss_of_2017_is_the_crossentropy_where_it_does_not_clip(p):
    loss, gradient = facts.loss_and_gradient(p, models.loss_of_2017())
    assert loss == pytest.approx(-np.log(p), rel=1e-4, abs=1e-6)
    assert gradient == pytest.approx(p - 1, rel=1e-4)


def test_nine_in_ten_images_begin_beyond_the_clip_with_he_normal_alone():
    (X, y), _ = load_mnist()
    for seed in range(3):
        network = train.build(runs.Run("deep_cnn_he", 1, seed, None, "2017"))
        p = (network.predict(X[:1000], batch_size=100, verbose=0) * y[:1000]).sum(axis=1)
        assert np.mean(p < 1e-7) == pytest.approx(0.9, abs=0.01)
    text = " ".join(" ".join(README).split())
    assert "90 % of the first 1,000 training images have p < 1e-7 before" in text


def test_weights_are_drawn_by_the_rules_of_2017():
    """Each layer's by itself, 0.88 of He's deviation; biases stay zero, Glorot's as they are."""
    network = models.under_rules(models.deep_cnn_advanced(), "2017")
    layers = [layer for layer in network.layers if hasattr(layer, "kernel_initializer")]
    kernels = [layer.kernel.numpy() for layer in layers]
    assert len({kernel.ravel()[0] for kernel in kernels}) == len(kernels) == 8
    for kernel in kernels:
        expected = 0.8796 * np.sqrt(2 / np.prod(kernel.shape[:-1]))
        assert kernel.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * kernel.size))
    assert not any(layer.bias.numpy().any() for layer in layers)

    keras.utils.set_random_seed(0)
    plain = models.deep_cnn()
    before = plain.get_weights()
    after = models.under_rules(plain, "2017").get_weights()
    assert all(map(np.array_equal, before, after))


@pytest.mark.parametrize("rules", models.RULES)
def test_rules_change_what_they_name_and_nothing_else(rules):
    """As of a network that a reader has edited, or its `compiled`."""

    def settings(model):
        compilation = model.get_compile_config()
        return compilation["optimizer"]["config"] | {"name": None}, compilation["metrics"]

    network = models.deep_cnn()
    edited = {"optimizer": keras.optimizers.Adam(0.01, beta_1=0.8), "metrics": ["accuracy", "mae"]}
    network.compile(loss="categorical_crossentropy", **edited)
    expected, metrics = settings(network)
    if "epsilon" in models.RULES[rules]:
        expected["epsilon"] = 1e-8
    assert settings(models.under_rules(network, rules)) == (expected, metrics)

    network.compile(loss="mse", optimizer=keras.optimizers.SGD(0.1), metrics=["accuracy"])
    expected = settings(network)
    assert settings(models.under_rules(network, rules)) == expected and network.loss == "mse"


def test_a_network_by_the_rules_of_2017_loads_by_itself(tmp_path):
    """With nothing of this project, as by the README's snippet."""
    network = models.under_rules(models.deep_cnn(), "2017")
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={})
    assert facts.loss_and_gradient(1e-9, loaded.loss) == pytest.approx((16.118, 0), abs=1e-3)
