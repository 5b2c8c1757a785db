"""Compare the speed of the post's way of training with the project's; by hand, on Linux.

`python results/speed/benchmark.py` prints a table. For each network it starts all ways, each in
a process of its own, and lets them train by turns, 500 images at a time, and validate by turns of
1,000: a machine that is shared slows down and speeds up within minutes, but the slices of one turn
fall into the same mood, and their ratio can be trusted. A process may be slow for as long as it
lives, so there are ten rounds, with new processes in each. A ratio is the median over all turns,
with its quartiles. The post's way is a plain `model.fit` under TensorFlow's defaults, the
project's is `train.fit`.

`python results/speed/benchmark.py post project avx2` compares other ways as well: the README
beside this file tells what came of them.
"""

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import data
import machine
import runs
import train

ROUNDS = 10
IMAGES = 5_000  # of a round: 4,000 to train, 1,000 to validate, then all to validate once more
SLICES = {"training": 500, "validation": 1000}  # images of a turn: what the project calls at once
PROJECT = {"TF_ENABLE_ONEDNN_OPTS": "1"}
XLA = {
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit --tf_xla_ops_to_cluster=FUSIBLE"
}
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
WAYS = {
    "post": {},
    "project": PROJECT,
    "avx2": PROJECT | {"ONEDNN_MAX_CPU_ISA": "AVX2"},  # as the published runs
    "xla": PROJECT | XLA,
    "malloc": PROJECT | MALLOC,
}


def train_by_turns(way, name):
    """Train and validate in this process; stop before each slice, for a SIGCONT.

    Prints, as JSON, the images per second of every slice of training and of validation.
    """
    import keras

    class Turns(keras.callbacks.Callback):
        """Stop before each slice; the first one, in which graphs are traced, is not counted."""

        def __init__(self):
            super().__init__()
            self.rates = {"training": [], "validation": []}

        def on_train_begin(self, logs=None):
            self.begin("training")

        def on_train_batch_end(self, batch, logs=None):
            self.end("training", (batch + 1) * data.BATCH_SIZE)

        def on_test_begin(self, logs=None):
            self.begin("validation")

        def on_test_batch_end(self, batch, logs=None):
            size = data.BATCH_SIZE if way == "post" else data.EVALUATION_BATCH_SIZE
            self.end("validation", (batch + 1) * size)

        def begin(self, kind):
            self.images, self.started = 0, None

        def end(self, kind, images):
            if images - self.images < SLICES[kind]:
                return
            if self.started:
                seconds = time.perf_counter() - self.started
                self.rates[kind].append((images - self.images) / seconds)
            os.kill(os.getpid(), signal.SIGSTOP)
            self.images, self.started = images, time.perf_counter()

    X, y = (array[:IMAGES] for array in data.load_mnist()[0])
    model = train.build(runs.Run(name, 1, 0, None))
    turns = Turns()
    plain_fit = model.fit
    if way == "post":
        plain_fit(
            X, y, data.BATCH_SIZE, validation_split=data.VALIDATION_SPLIT,
            verbose=0, callbacks=[turns],
        )  # fmt: skip
        model.evaluate(X, y, data.BATCH_SIZE, verbose=0, callbacks=[turns])
    else:
        model.fit = lambda *data, callbacks, **options: plain_fit(
            *data, callbacks=[*callbacks, turns], **options
        )
        train.fit(model, X, y, range(1), 0, lambda row: None)
        model.evaluate(data.batches(X, y), verbose=0, callbacks=[turns])
    print(json.dumps(turns.rates))


def compare(ways, name):
    """Let all ways train network `name` by turns, once; return what each of them printed."""
    foreign = "KERAS_", "TF_", "ONEDNN_", "DNNL_"
    plain = {name: os.environ[name] for name in os.environ if not name.startswith(foreign)}
    plain |= {"KERAS_HOME": os.devnull, "TF_CPP_MIN_LOG_LEVEL": "3"}
    processes = {
        way: subprocess.Popen(
            [sys.executable, __file__, "--turns", way, name],
            env=plain | WAYS[way],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for way in ways
    }
    for process in processes.values():
        os.waitpid(process.pid, os.WUNTRACED)  # until its first turn is over
    results = {}
    while len(results) < len(ways):
        for way, process in processes.items():
            if way not in results:
                process.send_signal(signal.SIGCONT)
                _, status = os.waitpid(process.pid, os.WUNTRACED)
                if not os.WIFSTOPPED(status):
                    results[way] = json.loads(process.stdout.read())
    return results


def quartiles(values):
    """Return the median and the quartiles, as the table shows them."""
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def main(ways):
    """Compare the ways for both networks and print the table."""
    machine.start_tensorflow()
    print(f"{machine.device()}\n")
    print("| network | work | way | images/s | ratio (quartiles) |")
    print("| --- | --- | --- | --- | --- |")
    for name in train.POST_MODELS:
        rounds = [compare(ways, name) for _ in range(ROUNDS)]
        for kind, way in itertools.product(SLICES, ways):
            rates = [rate for results in rounds for rate in results[way][kind]]
            first = [rate for results in rounds for rate in results[ways[0]][kind]]
            ratio = quartiles([rate / base for rate, base in zip(rates, first, strict=True)])
            speed = statistics.median(rates)
            print(f"| {name} | {kind} | {way} | {speed:.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--turns"]:
        train_by_turns(*sys.argv[2:])
    else:
        main(sys.argv[1:] or ["post", "project"])
