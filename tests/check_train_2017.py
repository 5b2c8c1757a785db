"""Not a test of the suite: kills train_2017.py in Keras 2.0.8 itself, and lets it go on.

`keras2017/bin/python tests/check_train_2017.py`, in the environment that train_2017.py names,
trains each network on few images and prints a line for each, and two on the race of the update, or
ends with the assertion that does not hold.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "results/keras_2017"))

import keras
import train_2017

STEPS = 10  # an epoch: 500 images to train, 125 to validate


def child(results, name):
    """Run train_2017.py on few images; print the random choices and Adam's counter of steps."""
    (X, y), (X_test, y_test) = train_2017.load_mnist()
    few = (X[:625], y[:625]), (X_test[:200], y_test[:200])
    train_2017.load_mnist = lambda: few
    train_2017.RESULTS = Path(results)
    shuffle, restore, save = np.random.shuffle, train_2017.restore, train_2017.save

    def told_shuffle(order):
        shuffle(order)
        print("order", hashlib.md5(order).hexdigest())

    def told_restore(model, values):
        restore(model, values)
        print("restored", model.evaluate(X[500:625], y[500:625], 50, verbose=0)[0])
        print("steps", model.optimizer.get_weights()[0])

    def told_save(directory, unfinished, model, *rest):
        operations = keras.backend.get_session().graph.get_operations()
        uniform = [op for op in operations if op.type == "RandomUniform" and "dropout" in op.name]
        print("dropout", [(op.get_attr("seed"), op.get_attr("seed2")) for op in uniform])
        print("steps", model.optimizer.get_weights()[0])
        save(directory, unfinished, model, *rest)

    np.random.shuffle = told_shuffle
    train_2017.restore, train_2017.save = told_restore, told_save
    train_2017.main([name, "--epochs", "3"])


def start(results, name):
    return subprocess.Popen(
        [sys.executable, "-u", __file__, str(results), name],
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )


def told(lines, word):
    return [line.split(" ", 1)[1] for line in lines if line.startswith(word + " ")]


def check(name):
    with tempfile.TemporaryDirectory() as results:
        whole, _ = start(results, name).communicate()
        directory = Path(results, name + "-keras2.0.8-3epochs-seed0")
        directory.rename(directory.with_name("whole"))

        process = start(results, name)
        before = []
        while len(told(before, "order")) < 2:  # in the midst of the second epoch
            before.append(process.stdout.readline())
            assert before[-1], before
        process.kill()
        process.communicate()
        state_file = Path(str(directory) + ".unfinished", "state.npz")
        first = train_2017.read_state(state_file)[0]["history"][0]
        after, _ = start(results, name).communicate()
        before, after, whole = (
            "".join(before).splitlines(),
            after.splitlines(),
            whole.splitlines(),
        )

        metrics = json.loads((directory / "metrics.json").read_text())
        history = (directory / "history.csv").read_text().splitlines()
        assert metrics["interrupted_after_epochs"] == [1]
        assert [line.split(",")[0] for line in history] == ["epoch", "1", "2", "3"]
        assert float(history[1].split(",")[4]) == first["val_loss"]
        # The network is the one of the epoch before, and so is Adam.
        assert abs(float(told(after, "restored")[0]) - first["val_loss"]) < 1e-6
        assert told(after, "steps") == [str(STEPS), str(3 * STEPS)]
        # No order comes twice, and each is the one of a run that was not interrupted.
        orders = told(whole, "order")
        assert len(set(orders)) == 3
        assert (told(before, "order"), told(after, "order")) == (orders[:2], orders[1:])
        # Nor does the dropout begin anew.
        assert (told(after, "dropout") == told(whole, "dropout")) == (name == "deep_cnn")
        # The trained network is kept, with the predictions that it makes.
        model = keras.models.load_model(str(directory / "model.h5"), compile=False)
        X, y = train_2017.load_mnist()[1]
        found = train_2017.predictions(model, X[:200], y[:200])
        lines = (directory / "predictions.csv").read_text().splitlines()[1:]
        assert lines == [",".join(str(value) for value in row.values()) for row in found]
        right = np.mean([row["label"] == row["prediction"] for row in found])
        assert abs(right - metrics["test_accuracy"]) < 1e-6
    print(name + ": goes on after a kill as it should")


def gradient_error(*wait):
    """Return how far the gradients of a first step are from those of the initial weights.

    The largest, over the variables, of the norm of the difference, relative to the norm.
    """
    keras.backend.clear_session()
    model = train_2017.compiled_model(train_2017.parse_arguments(["deep_cnn", *wait]), 0)
    ((X, y), _), inner = train_2017.load_mnist(), model.model
    inputs = inner.inputs + inner.targets + inner.sample_weights
    gradients = keras.backend.gradients(inner.total_loss, inner.trainable_weights)
    expected = keras.backend.function(inputs, gradients)([X[:50], y[:50], np.ones(50)])
    model.train_on_batch(X[:50], y[:50])
    found = [10 * moment for moment in model.optimizer.get_weights()[1 : len(gradients) + 1]]
    norm = np.linalg.norm
    return max(norm(found[i] - gradient) / norm(gradient) for i, gradient in enumerate(expected))


def check_update():
    errors = [gradient_error() for _ in range(10)]
    waiting = [gradient_error("--wait") for _ in range(10)]
    print(f"errors of the first gradients: {min(errors):.0e} to {max(errors):.0e} in ten tries")
    print(f"with an update that waits: {min(waiting):.0e} to {max(waiting):.0e}")
    assert max(waiting) < 1e-4


if __name__ == "__main__":
    if sys.argv[1:]:
        child(*sys.argv[1:])
    else:
        check_update()
        for name in train_2017.AUTHORS_TEST_ACCURACY:
            check(name)
