"""The files of finished runs, written and read, and the plots drawn from them.

`python plot.py [DIR ...]` redraws `accuracy.png` and `errors.png` of the runs in each directory
(default: `results`).
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data import load_mnist


def main(argv=None):
    """Redraw the plots that the command line asks for."""
    parser = argparse.ArgumentParser("plot.py", description="Redraw the plots of finished runs.")
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="*",
        type=Path,
        default=[Path("results")],
        help="the directory of a run, or one with several of them (default: results)",
    )
    for directory in parser.parse_args(argv).directories:
        if (directory / "metrics.json").exists():
            run_dirs = [directory]
        else:
            run_dirs = sorted(path.parent for path in directory.glob("*/metrics.json"))
        if not run_dirs:
            sys.exit(f"plot.py: there is no finished run in {directory}")
        for run_dir in run_dirs:
            draw(plot_errors, run_dir)
            draw(plot_accuracy, run_dir)


def draw(plot, directory):
    """Call `plot` and print which file it wrote, or end the program with one line."""
    try:
        picture = plot(directory)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"plot.py: cannot draw the results in {directory}: {error}")
    print(picture)


# The files of a run


def write_run(run_dir, metrics, history, predictions):
    """Write `metrics.json`, `history.csv` and `predictions.csv` into `run_dir`.

    Args:
        run_dir: the `Path` of a directory.
        metrics: a dict for JSON.
        history: a list of one dict an epoch, all with the same keys.
        predictions: a list of one dict for each test image, in their order: `image`, its
            number, `label` and `prediction`, digits.

    Raises:
        OSError: a file cannot be written.
    """
    (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    for name, rows in (("history.csv", history), ("predictions.csv", predictions)):
        with open(run_dir / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_run(run_dir):
    """Return the metrics of a run, and its history as one list of numbers a column.

    Raises:
        OSError: a file of the run cannot be read.
        ValueError, KeyError, TypeError: a file of the run is not what `write_run` wrote.
    """
    metrics = json.loads((run_dir / "metrics.json").read_text())
    return metrics, read_table(run_dir / "history.csv", metrics["epochs"])


def read_predictions(run_dir):
    """Return the labels of the test images and what the run took them for, each int (n,).

    Raises: as `read_run`.
    """
    metrics = json.loads((run_dir / "metrics.json").read_text())
    table = read_table(run_dir / "predictions.csv", metrics["test_images"])
    return np.array(table["label"], int), np.array(table["prediction"], int)


def read_table(path, lines):
    """Return a CSV file of so many lines of numbers as one list a column; raises as `read_run`."""
    text = path.read_text()
    rows = list(csv.DictReader(text.splitlines()))
    if len(rows) != lines or not text.endswith("\n"):
        raise ValueError(f"{path.name} is not whole: {len(rows)} lines instead of {lines}")
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


# The plots


def plot_accuracy(run_dir):
    """Draw `accuracy.png` in `run_dir`, 1200 x 500 pixels.

    On the left training and validation accuracy over the epochs, as the post draws them; on
    the right the same from 0.98 to 1.00 (or from lower, if the run ended lower). A thin line
    marks the author's test accuracy.

    Args:
        run_dir: the `Path` of a directory with `history.csv` and `metrics.json`.

    Returns:
        The path of the picture.

    Raises:
        OSError: a file of the run cannot be read, or the plot not be written.
        ValueError, KeyError, TypeError: as `read_run`.
    """
    metrics, history = read_run(run_dir)
    curves = {"training": history["accuracy"], "validation": history["val_accuracy"]}
    authors = metrics["authors_test_accuracy"]

    with matplotlib.style.context("default"):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        figure.suptitle(f"{metrics['model']}, seed {metrics['seed']}")
        for axes in figure.subplots(1, 2):
            for label, accuracy in curves.items():
                plot_curve(axes, history["epoch"], accuracy, label)
            axes.axhline(
                authors,
                color="gray",
                linewidth=0.8,
                label=f"the author's test accuracy: {authors:.4f}",
            )
            axes.set_ylabel("accuracy")
        last = min(accuracy[-1] for accuracy in curves.values())
        axes.set_ylim(min(0.98, last - 0.01), 1)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.savefig(run_dir / "accuracy.png", dpi=100)
    return run_dir / "accuracy.png"


def plot_errors(run_dir):
    """Draw `errors.png` in `run_dir`: the test images that the run got wrong, at most 100.

    Above each stand its label and what the run took it for, below it its number.

    Args, Returns, Raises: as `plot_accuracy`, of `predictions.csv` as well.
    """
    metrics, _ = read_run(run_dir)
    labels, predictions = read_predictions(run_dir)
    _, (images, _) = load_mnist()
    wrong = np.nonzero(labels != predictions)[0]
    shown = wrong[:100]
    rows = max(1, math.ceil(len(shown) / 10))
    width, height = 38, 48  # of the place of an image, in its pixels
    sheet = np.zeros((rows * height, 10 * width), "uint8")
    first = f"the first {len(shown)} of " if len(shown) < len(wrong) else ""

    with matplotlib.style.context("default"):
        figure = Figure(figsize=(10, 10 * (rows * height + 20) / (10 * width)), dpi=100)
        axes = figure.add_axes((0, 0, 1, rows * height / (rows * height + 20)))
        axes.axis("off")
        figure.suptitle(
            f"{metrics['model']}, seed {metrics['seed']}: {first}{len(wrong)} test images wrong "
            f"of {len(labels):,} (label → prediction)"
        )
        for place, image in enumerate(shown):
            y, x = height * (place // 10) + 12, width * (place % 10) + 5
            sheet[y : y + 28, x : x + 28] = images[image, :, :, 0]
            text = f"{labels[image]} → {predictions[image]}"
            axes.text(x + 14, y - 2, text, fontsize=12, ha="center", va="bottom")
            axes.text(x + 14, y + 29, f"{image}", fontsize=7, ha="center", va="top")
        axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=255, aspect="auto")
        figure.savefig(run_dir / "errors.png", dpi=100)
    return run_dir / "errors.png"


def plot_curve(axes, epochs, accuracy, label):
    """Draw an accuracy over the epochs; that of a single epoch as a point."""
    axes.plot(epochs, accuracy, label=label, marker="o" if len(epochs) == 1 else None)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


if __name__ == "__main__":
    try:
        with sys.stdout:  # closed here, a full disk or a closed pipe under it is told here
            main()
    except OSError as error:
        sys.exit(f"plot.py: cannot print: {error.strerror}")
