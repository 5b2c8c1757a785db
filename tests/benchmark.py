"""Compare the speed of the post's way of training with the project's; run by hand.

`python tests/benchmark.py` takes about ten minutes and prints a table. It alternates
between the ways, each in a process of its own, on the first images of MNIST. The post's way
is a plain `model.fit` under TensorFlow's defaults, the project's is `train.fit`. The first of
two epochs, which traces the graph, is not counted.
"""

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from train import BATCH_SIZE, POST_EPOCHS, POST_TEST_ACCURACY, VALIDATION_SPLIT, processor

ROUNDS = 5
IMAGES = 5000  # 4,000 to train on, 1,000 to validate
WAYS = {
    "post": {},
    "project": {"TF_ENABLE_ONEDNN_OPTS": "1"},
}


def measure(way, name):
    """Train in this process; return images per second, seconds of the rest, and peak memory."""
    import keras

    import train
    from models import MODELS

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.begin = time.perf_counter()
            self.batches = []

        def on_train_batch_end(self, batch, logs=None):
            self.batches.append(time.perf_counter())

        def on_test_begin(self, logs=None):
            self.test_begin = time.perf_counter()

        def on_test_end(self, logs=None):
            self.test_end = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.end = time.perf_counter()

    (X, y), _ = train.load_mnist()
    X, y = X[:IMAGES], y[:IMAGES]
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    clock = Clock()
    if way == "post":
        model.fit(
            X, y, BATCH_SIZE, epochs=2, validation_split=VALIDATION_SPLIT,
            verbose=0, callbacks=[clock],
        )  # fmt: skip
    else:
        plain_fit = model.fit
        model.fit = lambda *args, callbacks, **options: plain_fit(
            *args, callbacks=[*callbacks, clock], **options
        )
        settings = train.run_settings(name, seed=0)
        with tempfile.TemporaryDirectory() as directory:
            state_file = Path(directory, "state.npz")
            train.fit(model, X, y, 2, settings, ([], []), state_file, epochs_after=0)

    n = train.training_images(X)
    # The median batch: a wait between two epochs may fall into a batch, and is not computation.
    batch = statistics.median(b - a for a, b in itertools.pairwise(clock.batches))
    batch /= model.steps_per_execution
    validation = clock.test_end - clock.test_begin
    return {
        "training": BATCH_SIZE / batch,
        "validation": (len(X) - n) / validation,
        "rest": clock.end - clock.begin - n / BATCH_SIZE * batch - validation,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_apart(way, name):
    """Return what `measure` returns, measured in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    done = subprocess.run(
        [sys.executable, __file__, way, name],
        env=environment | WAYS[way] | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Measure round by round, then print the table."""
    results = {(name, way): [] for name in POST_TEST_ACCURACY for way in WAYS}
    for i in range(ROUNDS):
        for name, way in results:
            results[name, way].append(measure_apart(way, name))
            rate = results[name, way][-1]["training"]
            print(f"round {i + 1}: {name} {way} {rate:.0f}", file=sys.stderr)

    print(f"{processor()}, {ROUNDS} rounds\n")
    print(
        "| model | way | images/s: median (range) | ratio | s/epoch | h/100 epochs "
        "| rest of an epoch, s: median (range) | peak memory, MB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (name, way), rows in results.items():

        def column(key, rows=rows):
            return [row[key] for row in rows]

        rate, rest = column("training"), column("rest")
        base = statistics.median(row["training"] for row in results[name, "post"])
        seconds = 48_000 / statistics.median(rate)
        seconds += 12_000 / statistics.median(column("validation"))
        print(
            f"| {name} | {way} | {statistics.median(rate):.0f} ({min(rate):.0f} to "
            f"{max(rate):.0f}) | {statistics.median(rate) / base:.2f} | {seconds:.0f} "
            f"| {seconds * POST_EPOCHS / 3600:.2f} | {statistics.median(rest):.2f} "
            f"({min(rest):.2f} to {max(rest):.2f}) | {max(column('megabytes')):.0f} |"
        )


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main()
