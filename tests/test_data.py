"""The data is MNIST, shaped and fed as in the post; a broken file is told in one line."""

import hashlib

import numpy as np
import post
import pytest
import tensorflow as tf
from helpers import orders

import data
from machine import RunError

# How often each digit occurs: the well-known counts of MNIST.
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="module")
def mnist():
    return data.load_mnist()


def test_shapes_and_dtypes(mnist):
    (X_train, y_train), (X_test, y_test) = mnist
    assert [array.shape for array in (X_train, X_test, y_train, y_test)] == post.SHAPES
    assert X_train.dtype == X_test.dtype == np.uint8
    assert y_train.dtype == y_test.dtype == np.float32


def test_pixels_are_not_scaled(mnist):
    for X, _ in mnist:
        assert (X.min(), X.max()) == (0, 255)


def test_labels_are_one_hot(mnist):
    for (_, y), counts in zip(mnist, (TRAIN_COUNTS, TEST_COUNTS), strict=True):
        assert set(np.unique(y)) == {0, 1}
        assert (y.sum(axis=1) == 1).all()
        assert y.sum(axis=0).tolist() == counts


def test_images_belong_to_their_labels(mnist):
    (X_train, y_train), _ = mnist
    assert y_train[:10].argmax(axis=1).tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    # The canonical IDX file of the training images, behind its header of 16 bytes.
    header = np.array([2051, 60_000, 28, 28], ">i4").tobytes()
    digest = hashlib.md5(header + X_train.tobytes()).hexdigest()
    assert digest == "6bbc9ace898e44ae57da46a324031adb"


def broken_mnist(tmp_path, monkeypatch, content=None):
    path = tmp_path / "mnist.npz"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(data, "MNIST_FILE", path)
    return path


def assert_one_line_with(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in (*parts, "copy it from the project again (in a clone: git checkout mnist.npz)"):
        assert part in message


def test_missing_file(tmp_path, monkeypatch):
    path = broken_mnist(tmp_path, monkeypatch)
    with pytest.raises(RunError) as error:
        data.load_mnist()
    assert_one_line_with(error, str(path), "No such file")


@pytest.mark.parametrize("size", [0, 1000, data.MNIST_BYTES - 1])
def test_truncated_file(tmp_path, monkeypatch, size):
    path = broken_mnist(tmp_path, monkeypatch, data.MNIST_FILE.read_bytes()[:size])
    with pytest.raises(RunError) as error:
        data.load_mnist()
    assert_one_line_with(error, str(path), "truncated", f"{size:,} of 11,490,519 bytes")


@pytest.mark.parametrize("longer", [False, True])
def test_altered_file(tmp_path, monkeypatch, longer):
    content = bytearray(data.MNIST_FILE.read_bytes())
    content[5_000_000] ^= 1
    path = broken_mnist(tmp_path, monkeypatch, bytes(content) + b"!" * longer)
    with pytest.raises(RunError) as error:
        data.load_mnist()
    assert_one_line_with(error, str(path), "altered", "SHA-256", data.MNIST_SHA256)


# The batches


def test_every_epoch_has_a_new_order_of_all_samples():
    found = orders(120, 0, range(5))
    for order in found:
        assert sorted(order) == list(range(120))
    assert len({tuple(order) for order in [*found, range(120)]}) == 6


def test_order_is_that_of_the_published_runs():
    assert orders(10, 7, range(1, 2)) == [[9, 1, 0, 4, 2, 5, 3, 8, 6, 7]]


def test_order_follows_from_seed_and_epoch_alone():
    found = orders(120, 0, range(5))
    assert found == orders(120, 0, range(5))
    assert found[3:] == orders(120, 0, range(3, 5))


def test_no_two_pairs_of_seed_and_epoch_share_an_order():
    seeds = [0, 1, 2, 3, 2**31, 2**32 - 1]
    found = [tuple(order) for seed in seeds for order in orders(60, seed, range(4))]
    assert len(set(found)) == len(seeds) * 4


def test_images_stay_uint8():
    images = np.zeros((60, 28, 28, 1), np.uint8)
    labels = np.zeros((60, 10), np.float32)
    train_spec = data.shuffled_batches(images, labels, 0, range(1)).element_spec
    for spec in (train_spec, data.batches(images, labels).element_spec):
        assert [part.dtype for part in spec] == [tf.uint8, tf.float32]


def test_batches_keep_their_own_order():
    samples = np.arange(250)
    found = list(data.batches(samples, samples))
    assert [len(X) for X, _ in found] == [100, 100, 50]
    assert np.concatenate([X for X, _ in found]).tolist() == list(range(250))


def test_no_thread_tunes_the_batches():
    """At an epoch's end its sleep may hold the training up for seconds."""
    samples = np.arange(100)
    for dataset in (
        data.batches(samples, samples),
        data.shuffled_batches(samples, samples, 0, range(1)),
    ):
        assert dataset.options().autotune.enabled is False


@pytest.mark.parametrize("n", [60_000, 625, 7])
def test_the_last_fifth_is_for_validation(n):
    """As Keras splits it: at int(n * (1 - 0.2))."""
    (X, y), (X_validation, y_validation) = data.split(np.arange(n), np.arange(n))
    assert (len(X), len(X_validation)) == (int(n * 0.8), n - int(n * 0.8))
    assert [*X, *X_validation] == [*y, *y_validation] == list(range(n))
