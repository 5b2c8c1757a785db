"""MNIST, shaped as the post feeds it to its convolutional networks, and the batches of it."""

import hashlib
import io
from pathlib import Path

import numpy as np

from machine import RunError

MNIST_FILE = Path(__file__).with_name("mnist.npz")
MNIST_BYTES = 11_490_519
MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"
CLASSES = 10
BATCH_SIZE = 50  # the post's
VALIDATION_SPLIT = 0.2  # the post's
EVALUATION_BATCH_SIZE = 100  # of validation and test; no accuracy depends on it


def load_mnist():
    """Load the MNIST that the project carries, the contents of `keras.datasets.mnist`.

    Returns:
        `(X_train, y_train), (X_test, y_test)`. The images are uint8 of shape
        (60000, 28, 28, 1) and (10000, 28, 28, 1), pixels from 0 to 255: the post
        does not scale them. The labels are one-hot float32 of shape (60000, 10)
        and (10000, 10).

    Raises:
        RunError: `mnist.npz` is missing, cannot be read, is truncated or altered.
    """
    with np.load(io.BytesIO(_read_checked(MNIST_FILE))) as arrays:
        X_train, y_train = arrays["x_train"], arrays["y_train"]
        X_test, y_test = arrays["x_test"], arrays["y_test"]
    # (n, 28, 28) => (n, 28, 28, 1): a convolution expects a channel axis.
    X_train, X_test = X_train[..., np.newaxis], X_test[..., np.newaxis]
    one_hot = np.eye(CLASSES, dtype="float32")
    return (X_train, one_hot[y_train]), (X_test, one_hot[y_test])


def split(X, y):
    """Split off the last 20 % for validation, as the post has Keras do it.

    Args:
        X: images (n, ...), or anything else that has a length and slices.
        y: their labels (n, ...).

    Returns:
        `(X, y), (X_validation, y_validation)`; of MNIST, 48,000 and 12,000 images.
    """
    n = int(len(X) * (1 - VALIDATION_SPLIT))
    return (X[:n], y[:n]), (X[n:], y[n:])


def shuffled_batches(X, y, seed, epochs):
    """Return a `tf.data.Dataset` of the batches of all `epochs`, in a new order in each.

    The order of epoch e follows from (seed, e) alone. (Keras's own shuffling, once seeded,
    repeats one order in every epoch: Keras 3.15 with TensorFlow 2.21.)

    Args:
        X: images, uint8 (n, 28, 28, 1); they stay uint8 in memory.
        y: labels, float32 (n, 10).
        seed: a whole number from 0 to 2**32 - 1.
        epochs: a `range`, counted from 0.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        X, y = tf.constant(X), tf.constant(y)

    def order(epoch):
        indices = tf.range(len(X))
        indices = tf.random.experimental.stateless_shuffle(indices, seed=(seed, epoch))
        return tf.data.Dataset.from_tensor_slices(indices).batch(BATCH_SIZE)

    dataset = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(order)
    dataset = dataset.map(lambda indices: (tf.gather(X, indices), tf.gather(y, indices)))
    return _without_autotune(dataset.prefetch(2))


def batches(X, y):
    """Return a `tf.data.Dataset` of the batches of `X` and `y`, 100 each, in their own order."""
    import tensorflow as tf

    with tf.device("CPU"):
        dataset = tf.data.Dataset.from_tensor_slices((X, y))
    return _without_autotune(dataset.batch(EVALUATION_BATCH_SIZE).prefetch(2))


def _without_autotune(dataset):
    """Return `dataset` without the tuning that TensorFlow adds to every input pipeline.

    At the end of an epoch its thread may sleep on for seconds (results/speed/README.md tells how
    long), and the epoch with it; there is nothing to tune in pipelines that only copy 50 images.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _read_checked(path):
    """Read the dataset's bytes; raise one clear line unless they are the known ones."""
    remedy = f"copy it from the project again (in a clone: git checkout {path.name})"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    if len(content) < MNIST_BYTES:
        size = f"{len(content):,} of {MNIST_BYTES:,} bytes"
        raise RunError(f"{path} is truncated: {size}; {remedy}")
    found = hashlib.sha256(content).hexdigest()
    if found != MNIST_SHA256:
        raise RunError(f"{path} is altered: its SHA-256 is {found}, not {MNIST_SHA256}; {remedy}")
    return content
