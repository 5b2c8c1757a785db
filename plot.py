"""The files of finished runs, written and read, and the plots drawn from them.

`python plot.py [DIR ...]` redraws `accuracy.png` of the runs in each directory (default:
`results`), and its `comparison.png` where the post's two runs are in it.
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path
from statistics import NormalDist

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

POST_RUNS = ("deep_cnn_advanced-100epochs-seed0", "deep_cnn_advanced_nin-100epochs-seed0")
TEST_IMAGES = 10_000


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
            draw(plot_accuracy, run_dir)
        if {run_dir.name for run_dir in run_dirs}.issuperset(POST_RUNS):
            draw(plot_comparison, directory)


def draw(plot, directory):
    """Call `plot` and print which file it wrote, or end the program with one line."""
    try:
        picture = plot(directory)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"plot.py: cannot draw the results in {directory}: {error}")
    print(picture)


# The files of a run


def write_run(run_dir, metrics, history):
    """Write `metrics.json` and `history.csv` into `run_dir`.

    Args:
        run_dir: the `Path` of a directory.
        metrics: a dict for JSON.
        history: a list of one dict an epoch, all with the same keys.

    Raises:
        OSError: a file cannot be written.
    """
    (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    with open(run_dir / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def read_run(run_dir):
    """Return the metrics of a run, and its history as one list of numbers a column.

    Raises:
        OSError: a file of the run cannot be read.
        ValueError, KeyError, TypeError: a file of the run is not what `write_run` wrote.
    """
    metrics = json.loads((run_dir / "metrics.json").read_text())
    text = (run_dir / "history.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    if len(rows) != metrics["epochs"] or not text.endswith("\n"):
        raise ValueError(f"history.csv is not whole: {len(rows)} lines, {metrics['epochs']} epochs")
    return metrics, {name: [float(row[name]) for row in rows] for name in rows[0]}


# The plots


def plot_accuracy(run_dir):
    """Draw `accuracy.png` in `run_dir`, 1200 x 500 pixels.

    On the left training and validation accuracy over the epochs, as the post draws them; on
    the right the same from 0.98 to 1.00 (or from lower, if the run ended lower). A thin line
    marks the test accuracy that the post reports.

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
    post = metrics["post_test_accuracy"]

    with matplotlib.style.context("default"):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        figure.suptitle(f"{metrics['model']}, seed {metrics['seed']}")
        for axes in figure.subplots(1, 2):
            for label, accuracy in curves.items():
                plot_curve(axes, history["epoch"], accuracy, label)
            axes.axhline(
                post, color="gray", linewidth=0.8, label=f"test accuracy in the post: {post:.4f}"
            )
            axes.set_ylabel("accuracy")
        last = min(accuracy[-1] for accuracy in curves.values())
        axes.set_ylim(min(0.98, last - 0.01), 1)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.savefig(run_dir / "accuracy.png", dpi=100)
    return run_dir / "accuracy.png"


def plot_comparison(results):
    """Draw `comparison.png` in `results`, 1200 x 500 pixels, of the post's two runs in it.

    On the left the validation accuracy over the epochs; on the right the test accuracy, with
    its 95 % interval, over the number of parameters, beside the post's. Both from 0.98 to 1.00.

    Args:
        results: the `Path` of a directory with the two run directories.

    Returns, Raises: as `plot_accuracy`.
    """
    runs = [read_run(results / name) for name in POST_RUNS]
    large, small = (metrics for metrics, _ in runs)
    share = f"{100 * small['parameters'] / large['parameters']:.0f} % of the parameters"

    with matplotlib.style.context("default"):
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        figure.suptitle(
            f"{share}, nearly the same accuracy: "
            f"{small['test_accuracy']:.4f} instead of {large['test_accuracy']:.4f}"
        )
        left, right = figure.subplots(1, 2)
        for metrics, history in runs:
            plot_curve(left, history["epoch"], history["val_accuracy"], metrics["model"])
        left.set_ylabel("validation accuracy")
        left.legend(loc="lower right")
        plot_test_accuracies(right, [large, small])
        arrow = {"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0}
        x, y = (small["parameters"], 0.9975), (large["parameters"], 0.9975)
        right.annotate("", x, y, arrowprops=arrow)
        right.text((x[0] + y[0]) / 2, 0.9978, share, ha="center")
        for axes in (left, right):
            axes.set_ylim(0.98, 1)
        figure.savefig(results / "comparison.png", dpi=100)
    return results / "comparison.png"


def plot_test_accuracies(axes, runs):
    """Draw test accuracies, with their 95 % intervals and beside the post's, over the parameters.

    Args:
        axes: where to draw.
        runs: the metrics of the runs, in the order of their colors.
    """
    parameters = [metrics["parameters"] for metrics in runs]
    here = [metrics["test_accuracy"] for metrics in runs]
    post = [metrics["post_test_accuracy"] for metrics in runs]
    ends = np.transpose([interval(accuracy) for accuracy in here])
    errors = np.abs(ends - here)
    axes.errorbar(parameters, here, errors, fmt="ko", capsize=5, label="here, 95 % interval")
    axes.plot(parameters, post, "kD", markersize=9, fillstyle="none", label="in the post")
    for color, metrics, low in zip(("C0", "C1"), runs, ends[0], strict=True):
        name = f"{metrics['model']}\n{metrics['parameters']:,} parameters"
        position = (metrics["parameters"], low - 0.0005)
        axes.text(*position, name, color=color, ha="center", va="top")
    axes.set_xlim(0, 200_000)
    axes.set_xticks(range(0, 200_001, 50_000))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("parameters")
    axes.set_ylabel("test accuracy")
    axes.legend(loc="lower right")


def plot_curve(axes, epochs, accuracy, label):
    """Draw an accuracy over the epochs; that of a single epoch as a point."""
    axes.plot(epochs, accuracy, label=label, marker="o" if len(epochs) == 1 else None)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def interval(accuracy):
    """Return the 95 % confidence interval of an accuracy on the 10,000 test images (Wilson's)."""
    n, z = TEST_IMAGES, NormalDist().inv_cdf(0.975)
    center = (accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(accuracy * (1 - accuracy) / n + z**2 / (4 * n**2))
    return center - half, center + half


if __name__ == "__main__":
    try:
        with sys.stdout:  # closed here, a full disk or a closed pipe under it is told here
            main()
    except OSError as error:
        sys.exit(f"plot.py: cannot print: {error.strerror}")
