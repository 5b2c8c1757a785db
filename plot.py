"""The files of finished runs, written and read, and the plots drawn from them.

`python plot.py [DIR ...]` redraws `accuracy.png` and `errors.png` of the runs in each directory
(default: `results`), and its `comparison.png` where runs of both networks of the post are in it.
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

NETWORKS = ("deep_cnn", "deep_cnn_advanced", "deep_cnn_advanced_nin")
ACCURACY_TICKS = (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)
POST_CURVES = Path(__file__).with_name("results") / "published/post.csv"


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
        if all(run_dirs_of(directory, name) for name in NETWORKS[1:]):  # the post's two
            draw(plot_comparison, directory)


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


def plot_comparison(results):
    """Draw `comparison.png` in `results`, 1200 x 900 pixels, of all runs of 100 epochs in it.

    For each network the validation accuracy of its runs, thin, the median of them, thick, and
    the post's; at last the test accuracies, with mean and prediction interval, beside the
    author's. The scale is logarithmic in the errors, so that no run falls out of it; an
    interval may.

    Args:
        results: the `Path` of a directory with the directories of runs.

    Returns, Raises: as `plot_accuracy`.
    """
    runs = {name: [read_run(path) for path in run_dirs_of(results, name)] for name in NETWORKS}
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
        figure.suptitle("The runs here in color, the author's in black")
        *panels, last = figure.subplots(2, 2, sharey=True).ravel()
        last.set_yscale("function", functions=(from_accuracy, to_accuracy))
        for place, (axes, name) in enumerate(zip(panels, runs, strict=True)):
            axes.set_title(f"{name}: validation accuracy")
            plot_validation(axes, [history for _, history in runs[name]], f"C{place}")
            axes.plot(*posts_curve(name), "k", linewidth=1)
            plot_test_accuracies(last, place, [metrics for metrics, _ in runs[name]])
        last.set_title("test accuracy: runs, mean, 95 % prediction interval")
        last.set_xticks(range(len(runs)), runs)
        last.set_xlim(-0.5, 2.5)
        low, high = last.get_ylim()
        last.set_ylim(low, high)  # an interval over few runs may be wider
        for place, found in enumerate(runs.values()):
            plot_interval(last, place, [metrics["test_accuracy"] for metrics, _ in found])
        last.set_yticks([tick for tick in ACCURACY_TICKS if low < tick < high])
        last.yaxis.set_major_formatter("{x:g}")
        for axes in (*panels, last):
            axes.grid(axis="y", linewidth=0.3)
            axes.tick_params(labelleft=True)
        figure.savefig(results / "comparison.png", dpi=100)
    return results / "comparison.png"


def from_accuracy(accuracy):
    """Return where an accuracy stands on the scale of `plot_comparison`, which ends at 0.999."""
    return -np.log10(np.maximum(1 - accuracy, 0.001))


def to_accuracy(position):
    """Return the accuracy at a position of that scale."""
    return 1 - 10.0**-position


def plot_validation(axes, histories, color):
    """Draw the validation accuracy of several runs, thin, and their median, thick."""
    if not histories:
        axes.text(0.5, 0.5, "not trained yet", transform=axes.transAxes, ha="center")
        axes.set_xticks([])
        return
    curves = [history["val_accuracy"] for history in histories]
    epochs = histories[0]["epoch"]
    for curve in curves:
        axes.plot(epochs, curve, color, linewidth=0.5)
    axes.plot(epochs, np.median(curves, axis=0), color, linewidth=2)
    axes.set_xlabel("epoch")


def plot_test_accuracies(axes, place, runs):
    """Draw the test accuracies of the runs of one network, and the author's, at `place` on x."""
    places = [place - 0.3 + 0.04 * i for i in range(len(runs))]
    axes.plot(places, [run["test_accuracy"] for run in runs], f"C{place}o", fillstyle="none")
    axes.plot([place + 0.2] * len(runs), [run["authors_test_accuracy"] for run in runs], "kD")


def plot_interval(axes, place, accuracies):
    """Draw the mean of test accuracies with their prediction interval, if there are two."""
    if len(accuracies) > 1:
        mean, low, high = prediction_interval(accuracies)
        axes.errorbar(place, mean, [[mean - low], [high - mean]], fmt=f"C{place}o", capsize=8)


def plot_curve(axes, epochs, accuracy, label):
    """Draw an accuracy over the epochs; that of a single epoch as a point."""
    axes.plot(epochs, accuracy, label=label, marker="o" if len(epochs) == 1 else None)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


# The comparison of runs


def run_dirs_of(results, network):
    """Return the directories of the runs of 100 epochs of `network` in `results`, by seed."""
    files = results.glob(f"{network}-100epochs-seed*/metrics.json")
    return sorted((file.parent for file in files), key=lambda path: int(path.name.split("seed")[1]))


def posts_curve(name):
    """Return epochs and validation accuracies read off the post's figure; NaN where hidden."""
    rows = [
        row for row in csv.DictReader(POST_CURVES.read_text().splitlines()) if row["model"] == name
    ]
    return (
        [int(row["epoch"]) for row in rows],
        [float(row["val_accuracy"] or "nan") for row in rows],
    )


def prediction_interval(values):
    """Return the mean of `values`, and the ends of the 95 % interval for one more of them.

    mean ± t sd sqrt(1 + 1 / n), where t is the 97.5 % quantile of Student's distribution with
    n - 1 degrees of freedom; `values` are n numbers, two or more.
    """
    from scipy import stats  # what trains does not need it

    n, mean, deviation = len(values), np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.975, n - 1) * deviation * math.sqrt(1 + 1 / n)
    return mean, mean - half, mean + half


if __name__ == "__main__":
    try:
        with sys.stdout:  # closed here, a full disk or a closed pipe under it is told here
            main()
    except OSError as error:
        sys.exit(f"plot.py: cannot print: {error.strerror}")
