"""Not a test: train.py as it is, on the first images of the real data.

TRAIN_IMAGES is how many, validation included (default: 500); 200 more test images.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import train
from data import load_mnist


def load_few():
    n = int(os.environ.get("TRAIN_IMAGES", "500"))
    (X_train, y_train), (X_test, y_test) = load_mnist()
    return (X_train[:n], y_train[:n]), (X_test[:200], y_test[:200])


train.load_mnist = load_few
train.main()
