"""What Keras does where 2017 and today may differ, by experiment; runs in both.

`python results/keras_2017/facts.py` prints one line for each fact. facts.txt is what it
printed in Keras 2.0.8 on TensorFlow 1.3.0, the newest when the post's figures were made
(October 2017). To have these today, take Python 3.6 (from pyenv, say) and

    python3.6 -m venv keras2017
    keras2017/bin/pip install pip==21.3.1 wheel==0.37.1
    keras2017/bin/pip install tensorflow==1.3.0 keras==2.0.8 numpy==1.13.3
    keras2017/bin/python results/keras_2017/facts.py

In the faster environment of train_2017.py, Keras 2.0.8 on TensorFlow 1.15.2, it prints the same
facts, all but its first line; but with OMP_NUM_THREADS=2 the race of the update may not show.
"""

import sys
from pathlib import Path

# As train.py starts it: no log, no keras.json. Python 3.6, of 2017, cannot import machine.py.
if sys.version_info >= (3, 10):  # noqa: UP036
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import machine

    machine.start_tensorflow()

import keras
import numpy as np
import tensorflow as tf
from keras.callbacks import Callback
from keras.layers import BatchNormalization, Conv2D, Dense, Flatten, Input, MaxPooling2D
from keras.models import Model
from keras.optimizers import SGD, Adam


def facts():
    """Return the facts, a dict of names and texts."""
    mean, variance = np.transpose(moving_statistics(batches=2))
    loss, gradient = loss_and_gradient(p=1e-9)
    return {
        "learning rate of Adam": learning_rate(),
        "names of the accuracies": ", ".join(accuracy_names()),
        "one-hot labels": one_hot(),
        "standard deviation of he_normal": f"{he_normal():.2f} sqrt(2 / fan-in)",
        "Adam's epsilon": f"{adam_epsilon():.0e}",
        "moving mean of BatchNormalization after one batch and two": percent(mean),
        "moving variance of BatchNormalization, likewise": percent(variance),
        "loss of an image whose digit has p = 1e-9": f"{loss:.2f}",
        "its gradient at the digit's logit": f"{gradient:.2f}",
        "weights that a gradient is computed with": weights_of_gradient(),
        "order of the images, no seed": order(),
        "order of the images, seeded": order(seed=0),
    }


def percent(ratios):
    """Return ratios to the batch's own statistics as text."""
    return " and ".join(f"{100 * ratio:.2f} %" for ratio in ratios) + " of the batch's"


def learning_rate():
    """Return the name of Adam's learning rate."""
    try:
        Adam(lr=0.001)
    except ValueError:
        Adam(learning_rate=0.001)
        return "learning_rate (lr is an error)"
    return "lr"


def accuracy_names():
    """Return what `fit` calls the accuracies in its history."""
    model = network_of(Dense(1), (1,), optimizer="sgd", loss="mse", metrics=["accuracy"])
    history = model.fit(np.ones((10, 1)), np.ones((10, 1)), validation_split=0.2, verbose=0)
    return [name for name in sorted(history.history) if "acc" in name]


def one_hot():
    """Return the function that makes labels one-hot, and their type."""
    function, name = keras.utils.to_categorical, "keras.utils"
    if hasattr(keras.utils, "np_utils"):
        function, name = keras.utils.np_utils.to_categorical, "keras.utils.np_utils"
    return f"{name}.to_categorical, {function([1, 2]).dtype}"


def he_normal(initializer="he_normal"):
    """Return its standard deviation on two million weights, in units of sqrt(2 / fan-in)."""
    model = network_of(Dense(2000, kernel_initializer=initializer), (1000,))
    return model.get_weights()[0].std() / np.sqrt(2 / 1000)


def adam_epsilon(optimizer=None):
    """Return it from a step on a gradient of 1e-6: lr * g / (g + epsilon / sqrt(1 - beta_2))."""
    layer = Dense(1, use_bias=False, kernel_initializer="zeros")
    model = network_of(
        layer, (1,), optimizer=optimizer or Adam(0.001), loss=lambda y, output: output
    )
    gradient = 1e-6
    model.train_on_batch(np.array([[gradient]]), np.zeros((1, 1)))
    step = -model.get_weights()[0][0, 0]
    return np.sqrt(1 - 0.999) * gradient * (0.001 / step - 1)


def moving_statistics(batches):
    """Return mean and variance after each batch, relative to the batch's own."""
    x = np.linspace(-3e4, 5e4, 32).reshape((8, 2, 2, 1))
    model = network_of(BatchNormalization(), (2, 2, 1), optimizer="sgd", loss="mse")
    found = []
    for _ in range(batches):
        model.train_on_batch(x, x)
        mean, variance = model.get_weights()[2:]
        found.append((mean[0] / x.mean(), variance[0] / x.var()))
    return found


def loss_and_gradient(p, loss="categorical_crossentropy"):
    """Return both for an image whose digit has the probability `p`, from a step of SGD(1)."""
    layer = Dense(2, use_bias=False, activation="softmax")
    model = network_of(layer, (1,), optimizer=SGD(1.0), loss=loss)
    logits = np.array([[np.log(p), np.log(1 - p)]])
    model.set_weights([logits])
    loss = model.train_on_batch(np.ones((1, 1)), np.array([[1.0, 0.0]]))
    return float(loss), (logits - model.get_weights()[0])[0, 0]


def weights_of_gradient(tries=10):
    """Tell by the first layer: whether it moves as it does while all behind it stand still.

    If not, backpropagation went through weights that this very step had updated. That depends on
    what is computed first, so that it does not show in every try.
    """
    layers = [
        Conv2D(16, (3, 3), activation="relu"),
        Conv2D(16, (3, 3), activation="relu"),
        MaxPooling2D(),
        Conv2D(16, (3, 3), activation="relu"),
        Conv2D(16, (3, 3), activation="relu"),
        MaxPooling2D(),
        Flatten(),
        Dense(50, activation="relu"),
        Dense(10),
    ]
    image = output = Input((28, 28, 1))
    for layer in layers:
        output = layer(output)
    model = Model(image, output)
    before = model.get_weights()
    images = np.random.RandomState(0).rand(50, 28, 28, 1)

    def first_step(others_trainable):
        for layer in layers[1:]:
            layer.trainable = others_trainable
        model.compile(SGD(1.0), "mse")
        model.set_weights(before)
        model.train_on_batch(images, np.ones((50, 10)))
        return layers[0].get_weights()[0] - before[0]

    expected = first_step(others_trainable=False)
    steps = [first_step(others_trainable=True) for _ in range(tries)]
    error = max(np.linalg.norm(step - expected) for step in steps) / np.linalg.norm(expected)
    return "some already updated" if error > 1e-3 else "those before the update"


def order(seed=None):
    """Tell the order by a weight from which each sample, a number, is taken in its turn."""
    if seed is not None and hasattr(tf, "set_random_seed"):
        np.random.seed(seed)
        tf.set_random_seed(seed)
    elif seed is not None:
        keras.utils.set_random_seed(seed)
    layer = Dense(1, use_bias=False, kernel_initializer="zeros")
    model = network_of(layer, (1,), optimizer=SGD(1.0), loss=lambda y, output: output)
    weights = [0.0]

    class Spy(Callback):
        def on_batch_end(self, batch, logs=None):
            weights.append(model.get_weights()[0][0, 0])

    numbers = np.arange(1.0, 21).reshape((20, 1))
    model.fit(numbers, numbers, batch_size=1, epochs=3, verbose=0, callbacks=[Spy()])
    samples = -np.diff(weights)
    orders = {tuple(samples[start : start + 20]) for start in (0, 20, 40)}
    assert all(sorted(order) == list(range(1, 21)) for order in orders)
    return {1: "the same one in every epoch", 3: "a new one in every epoch"}[len(orders)]


def network_of(layer, shape, optimizer="sgd", loss="mse", metrics=None):
    """Return a compiled network of one layer."""
    image = Input(shape)
    model = Model(image, layer(image))
    model.compile(optimizer, loss, metrics=metrics)
    return model


if __name__ == "__main__":
    print(f"Keras {keras.__version__} on TensorFlow {tf.__version__}")
    for name, text in facts().items():
        print(f"{name}: {text}")
