"""MNIST, shaped as the post feeds it to its convolutional networks."""

import hashlib
import io
from pathlib import Path

import numpy as np

MNIST_FILE = Path(__file__).with_name("mnist.npz")
MNIST_BYTES = 11_490_519
MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"
CLASSES = 10


def load_mnist():
    """Load the MNIST that the project carries, the contents of `keras.datasets.mnist`.

    Returns:
        `(X_train, y_train), (X_test, y_test)`. The images are uint8 of shape
        (60000, 28, 28, 1) and (10000, 28, 28, 1), pixels from 0 to 255: the post
        does not scale them. The labels are one-hot float32 of shape (60000, 10)
        and (10000, 10).

    Raises:
        OSError: `mnist.npz` is missing or cannot be read.
        ValueError: `mnist.npz` is truncated or altered.
    """
    with np.load(io.BytesIO(_read_checked(MNIST_FILE))) as arrays:
        X_train, y_train = arrays["x_train"], arrays["y_train"]
        X_test, y_test = arrays["x_test"], arrays["y_test"]
    # (n, 28, 28) => (n, 28, 28, 1): a convolution expects a channel axis.
    X_train, X_test = X_train[..., np.newaxis], X_test[..., np.newaxis]
    one_hot = np.eye(CLASSES, dtype="float32")
    return (X_train, one_hot[y_train]), (X_test, one_hot[y_test])


def _read_checked(path):
    """Read the dataset's bytes; raise one clear line unless they are the known ones."""
    remedy = f"get it back with `git checkout {path.name}`"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    if len(content) < MNIST_BYTES:
        raise ValueError(
            f"{path} is truncated: {len(content):,} of {MNIST_BYTES:,} bytes; {remedy}"
        )
    found = hashlib.sha256(content).hexdigest()
    if found != MNIST_SHA256:
        raise ValueError(f"{path} is altered: its SHA-256 is {found}, not {MNIST_SHA256}; {remedy}")
    return content
