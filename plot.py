"""The files of finished runs, written and read, and the plots drawn from them.

`python plot.py RUN` redraws `accuracy.png` and `errors.png` of a run, given its directory;
`python plot.py RUN RUN ...` compares runs, of any networks, in `comparison.png`. A directory
with several runs stands for all of them; without an argument that is `results`.
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path

try:
    import numpy as np

    from data import load_mnist
    from machine import matplotlib_importable, run_as_program

    with matplotlib_importable():
        import matplotlib.style
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, NullLocator
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"plot.py: {error}; install it by {sys.executable} -m pip install -r requirements.txt")

ACCURACY_TICKS = (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)


def main(argv=None):
    """Redraw the plots of the run that the command line names, or compare several.

    Raises:
        SystemExit: there is no run, or one whose plots cannot be drawn, told in one line.
    """
    parser = argparse.ArgumentParser("plot.py", description="Plot finished runs.")
    parser.add_argument(
        "directories",
        metavar="RUN",
        nargs="*",
        type=Path,
        default=[Path("results")],
        help="the directory of a run, or one with several of them (default: results); several "
        "runs are compared, in comparison.png in the current directory",
    )
    run_dirs = {}
    for directory in parser.parse_args(argv).directories:
        found = runs_in(directory)
        if not found:
            sys.exit(f"plot.py: there is no finished run in {directory}")
        run_dirs.update((run_dir.resolve(), run_dir) for run_dir in found)
    if len(run_dirs) == 1:
        draw(plot_errors, *run_dirs.values())
        draw(plot_accuracy, *run_dirs.values())
    else:
        draw(plot_comparison, list(run_dirs.values()))


def runs_in(directory):
    """Return the directory, if it is that of a finished run, or else those of the runs in it."""
    if (directory / "metrics.json").exists():
        return [directory]
    return sorted(path.parent for path in directory.glob("*/metrics.json"))


def draw(plot, runs):
    """Call `plot` and print which file it wrote, or end the program with one line."""
    try:
        picture = plot(runs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "these runs" if isinstance(runs, list) else f"the results in {runs}"
        sys.exit(f"plot.py: cannot draw {what}: {error}")
    print(picture)


# The files of a run


def write_run(run_dir, metrics, history, predictions):
    """Write `metrics.json`, `history.csv` and `predictions.csv` into `run_dir`.

    Args:
        run_dir: the `Path` of a directory.
        metrics: a dict for JSON.
        history: a list of one dict an epoch, all with the same keys.
        predictions: a list of one dict for each test image, in their order: `image`, its
            number, `label` and `prediction`, digits, and `probability`, float32, what the
            network gave to the label.

    Raises:
        OSError: a file cannot be written.
    """
    text = json.dumps(metrics, indent=2) + "\n"
    (run_dir / "metrics.json").write_text(text, newline="\n")
    for name, rows in (("history.csv", history), ("predictions.csv", predictions)):
        with open(run_dir / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_run(run_dir):
    """Return the metrics of a run, and its history as one list of numbers a column.

    Args:
        run_dir: the directory of the run, a `Path` or a string.

    Returns:
        A dict, what metrics.json has, and a dict of the columns of history.csv: `epoch`,
        `accuracy`, `loss`, `val_accuracy`, `val_loss`, `seconds`, a list of numbers each.

    Raises:
        OSError: a file of the run cannot be read.
        ValueError, KeyError, TypeError: a file of the run is not what `write_run` wrote.
    """
    metrics = read_metrics(run_dir)
    return metrics, read_table(Path(run_dir) / "history.csv", metrics["epochs"])


def read_metrics(run_dir):
    """Return what metrics.json of a run has, a dict; raises as `read_run`."""
    return {**json.loads((Path(run_dir) / "metrics.json").read_text())}


def read_predictions(run_dir):
    """Return the labels of the test images and what the run took them for, each int (n,).

    Args, Raises: as `read_run`.
    """
    table = read_table(Path(run_dir) / "predictions.csv", read_metrics(run_dir)["test_images"])
    return np.array(table["label"], int), np.array(table["prediction"], int)


def read_table(path, lines):
    """Return a CSV file of so many lines of numbers as one list a column; raises as `read_run`."""
    text = path.read_text()
    rows = list(csv.DictReader(text.splitlines()))
    if len(rows) != lines or not text.endswith("\n"):
        raise ValueError(f"{path} is not whole: {len(rows)} lines instead of {lines}")
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


# The plots of a run


def title_of(metrics):
    """Return the title of the pictures of a run: network, epochs, seed."""
    return f"{network_and_epochs(metrics)}, seed {metrics['seed']}"


def network_and_epochs(metrics):
    """Return what the seeds of one comparison have in common."""
    rules = metrics.get("rules", "today")
    name = metrics["model"] if rules == "today" else f"{metrics['model']} by the rules of {rules}"
    return f"{name}, {metrics['epochs']} epoch{'s' * (metrics['epochs'] > 1)}"


def plot_accuracy(run_dir):
    """Draw `accuracy.png` in `run_dir`, as `draw_accuracy` does.

    Args:
        run_dir: the `Path` of a directory with `history.csv` and `metrics.json`.

    Returns:
        The path of the picture.

    Raises:
        OSError: a file of the run cannot be read, or the plot not be written.
        ValueError, KeyError, TypeError: as `read_run`.
    """
    picture = run_dir / "accuracy.png"
    draw_accuracy(picture, *read_run(run_dir))
    return picture


def draw_accuracy(picture, metrics, history):
    """Draw training and validation accuracy over the epochs, 1200 x 500 pixels.

    On the left from 0 to 1, nearly, as the post draws them; on the right the same from 0.98 to
    1.00 (or from lower, if the run ended lower). A thin line marks the author's test accuracy,
    where there is one.

    Args:
        picture: the `Path` of the file.
        metrics: a dict with `model`, `epochs`, `seed` and perhaps `authors_test_accuracy`.
        history: a dict of lists with `epoch`, `accuracy` and `val_accuracy`, of one epoch or more.
    """
    authors = metrics.get("authors_test_accuracy")
    so_far = len(history["epoch"])
    title = title_of(metrics)
    if so_far < metrics["epochs"]:
        title += f": after epoch {so_far}"
    with matplotlib.style.context("default"):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        figure.suptitle(title)
        for axes in figure.subplots(1, 2):
            plot_curve(axes, history["epoch"], history["accuracy"], label="training")
            plot_curve(axes, history["epoch"], history["val_accuracy"], label="validation")
            if authors:
                label = f"the author's test accuracy: {authors:.4f}"
                axes.axhline(authors, color="gray", linewidth=0.8, label=label)
            axes.set_ylabel("accuracy")
        axes.set_ylim(lower_end([history]), 1)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.savefig(picture, dpi=100)


def lower_end(histories):
    """Return where an axis of accuracies begins that shows the ends of all curves."""
    ends = [history[name][-1] for history in histories for name in ("accuracy", "val_accuracy")]
    return min(0.98, min(ends) - 0.01)


def plot_curve(axes, epochs, accuracy, **options):
    """Draw an accuracy over the epochs; that of a single epoch as a point."""
    axes.plot(epochs, accuracy, marker="o" if len(epochs) == 1 else None, **options)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def plot_errors(run_dir):
    """Draw `errors.png` in `run_dir`: the test images that the run got wrong, at most 100.

    Above each stand its label and what the run took it for, below it its number.

    Args, Returns, Raises: as `plot_accuracy`, of `predictions.csv` instead of `history.csv`.
    """
    metrics = read_metrics(run_dir)
    labels, predictions = read_predictions(run_dir)
    _, (images, _) = load_mnist()
    wrong = np.nonzero(labels != predictions)[0]
    shown = wrong[:100]
    rows = max(1, math.ceil(len(shown) / 10))
    width, height = 38, 48  # of the place of an image, in its pixels
    whole = rows * height + 20  # the height of the picture, with the title
    sheet = np.zeros((rows * height, 10 * width), "uint8")
    first = f"the first {len(shown)} of " if len(shown) < len(wrong) else ""

    with matplotlib.style.context("default"):
        figure = Figure(figsize=(10, whole / width), dpi=100)
        axes = figure.add_axes((0, 0, 1, rows * height / whole))
        axes.axis("off")
        figure.suptitle(
            f"{title_of(metrics)}\n{first}{len(wrong)} test images wrong "
            f"of {len(labels):,} (label → prediction)",
            y=1 - 10 / whole,
            va="center",
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


# The comparison of runs


def plot_comparison(run_dirs, picture=Path("comparison.png")):
    """Draw runs of any networks, seeds and numbers of epochs in one picture, 1200 x 700 pixels.

    Training accuracy on the left, validation accuracy beside it, test accuracies on the right, on
    one scale that is logarithmic in the errors, so that 0.99 and 0.995 lie as far apart as 0.98
    and 0.99. What differs in its seed alone and lies in one directory has one color: the runs are
    thin, their median is thick.

    Args:
        run_dirs: the `Path`s of the directories of the runs.
        picture: the `Path` of the file.

    Returns, Raises: as `plot_accuracy`.
    """
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
        training, validation, test = figure.subplots(1, 3, sharey=True, width_ratios=(5, 5, 2))
        for place, (label, runs) in enumerate(group(run_dirs).items()):
            color = f"C{place % 10}"
            for axes, name in ((training, "accuracy"), (validation, "val_accuracy")):
                plot_group(axes, [history for _, history in runs], name, color)
            accuracies = [metrics["test_accuracy"] for metrics, _ in runs]
            test.plot([place] * len(runs), accuracies, "o", color=color, fillstyle="none")
            seeds = f" (mean of {len(runs)} seeds, whose median is thick)" if runs[1:] else ""
            reached = f"test accuracy {np.mean(accuracies):.4f}{seeds}"
            training.plot([], [], color, label=f"{label}: {reached}")
        for axes, title in ((training, "training"), (validation, "validation"), (test, "test")):
            axes.set_title(f"{title} accuracy")
            axes.grid(axis="y", linewidth=0.3)
        test.set_xticks([])
        test.margins(x=0.5)
        training.set_ylabel("accuracy, logarithmic in the errors")
        training.set_yscale("logit", nonpositive="clip")
        lowest, _ = training.get_ylim()
        training.set_yticks(ACCURACY_TICKS)
        training.set_ylim(lowest, ACCURACY_TICKS[-1])
        training.yaxis.set_major_formatter("{x:g}")
        training.yaxis.set_minor_locator(NullLocator())
        figure.legend(loc="outside lower center")
        figure.savefig(picture, dpi=100)
    return picture


def group(run_dirs):
    """Return lists of what `read_run` returns, of runs that differ in their seeds, by a label."""
    several = len({run_dir.resolve().parent for run_dir in run_dirs}) > 1
    groups = {}
    for run_dir in run_dirs:
        metrics, history = read_run(run_dir)
        where = f" ({run_dir.parent})" if several else ""
        groups.setdefault(f"{network_and_epochs(metrics)}{where}", []).append((metrics, history))
    return {
        f"{label}, seed {runs[0][0]['seed']}" if len(runs) == 1 else label: runs
        for label, runs in groups.items()
    }


def plot_group(axes, histories, name, color):
    """Draw a column of the histories of several runs, thin, and their median, thick; or of one."""
    for history in histories:
        plot_curve(axes, history["epoch"], history[name], color=color, linewidth=0.5)
    median = np.median([history[name] for history in histories], axis=0)
    plot_curve(axes, histories[0]["epoch"], median, color=color, linewidth=2)


if __name__ == "__main__":
    run_as_program(main)
