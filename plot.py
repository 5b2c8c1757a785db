"""The pictures of runs: accuracy and errors of one, and the comparison of several.

`python plot.py RUN` redraws `accuracy.png` and `errors.png` of a run, given its directory;
`python plot.py RUN RUN ...` compares runs, of any networks, in `comparison.png`. A directory
with several runs stands for all of them; without an argument that is `results`.
"""

import argparse
import contextlib
import functools
import math
import sys
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # also where PYTHONSAFEPATH is set

import machine

with machine.explain_missing_package():
    import numpy as np

    machine.import_matplotlib()
    import matplotlib.font_manager
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from data import load_mnist
    from runs import read_metrics, read_predictions, read_run

ACCURACY_TICKS = (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1)
LINEAR_ERRORS = 0.0005  # the share of errors below which the scale of accuracies is linear
# Where DejaVu Sans, Matplotlib's own, has no such letters: what Windows, macOS and Linux have.
KOREAN_FONTS = "Malgun Gothic", "Apple SD Gothic Neo", "Noto Sans CJK KR", "NanumGothic"
# What makes a run, besides what its title names and its seed: by its name in metrics.json, how a
# label calls it.
MADE_OF = {
    "network_sha256": "network",
    "keras": "Keras",
    "tensorflow": "TensorFlow",
    "batch_size": "batch size",
    "validation_split": "validation split",
}
# Of a comparison: ten colors, then the same with other lines and marks.
COLORS = [f"C{i}" for i in range(10)]
LINES = ("-", "o"), ("--", "s"), ("-.", "^"), (":", "D")


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
    except (OSError, ValueError, KeyError, TypeError, machine.RunError) as error:
        what = "these runs" if isinstance(runs, list) else f"the results in {runs}"
        sys.exit(f"plot.py: cannot draw {what}: {error}")
    print(picture)


# All pictures


@contextlib.contextmanager
def style(changes=()):
    """Draw in Matplotlib's own style, whatever the user's matplotlibrc says, but for the letters.

    What DejaVu Sans has no letters for is drawn in the user's fonts, or in a Korean one; what
    these lack, too, is told in one line, once.

    Args:
        changes: settings of Matplotlib, a dict.
    """
    installed = matplotlib.font_manager.get_font_names()
    families = (*matplotlib.rcParams["font.family"], *KOREAN_FONTS)
    fonts = ["DejaVu Sans", *(name for name in families if name in installed)]
    settings = {"font.family": fonts, "text.parse_math": False}  # a "$" is one
    with (
        matplotlib.style.context(["default", settings, dict(changes)]),
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        yield
    for warning in told:
        line = str(warning.message)
        if "missing from font" in line:
            line = "no font here has the letters of this name; install NanumGothic, for one"
        tell_once(line)


@functools.cache
def tell_once(line):
    """Print a line, if it has not been printed."""
    print(line)


def scale_by_errors(axes):
    """Let an axis of accuracies be logarithmic in the errors, and linear from 0.9995 to 1.

    So 0.99 and 0.995 lie as far apart as 0.98 and 0.99, and no run falls out of it.
    """
    axes.set_yscale("function", functions=(from_accuracy, to_accuracy))
    axes.grid(axis="y", linewidth=0.4)


def from_accuracy(accuracy):
    """Return where accuracies stand on the scale of `scale_by_errors`.

    Args:
        accuracy: a number or an array; so is what is returned.
    """
    errors = 1 - accuracy
    linear = np.maximum(LINEAR_ERRORS - errors, 0) / (LINEAR_ERRORS * np.log(10))
    return linear - np.log10(np.maximum(errors, LINEAR_ERRORS))


def to_accuracy(position):
    """Return the accuracies, a number or an array, at positions of that scale."""
    end = -np.log10(LINEAR_ERRORS)
    linear = np.maximum(position - end, 0) * LINEAR_ERRORS * np.log(10)
    return linear + 1 - 10.0 ** -np.minimum(position, end)


def set_ticks(axes):
    """Name the accuracies that lie within the axes."""
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in ACCURACY_TICKS if low < tick < high])
    axes.yaxis.set_major_formatter("{x:g}")


# The pictures of a run


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
    with style():
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        figure.suptitle(title)
        titles = "training and validation accuracy", "the same, enlarged"
        for axes, title in zip(figure.subplots(1, 2), titles, strict=True):
            axes.set_title(title)
            plot_curve(axes, history["epoch"], history["accuracy"], label="training")
            plot_curve(axes, history["epoch"], history["val_accuracy"], label="validation")
            if authors:
                label = f"the author's test accuracy: {authors:.4f}"
                axes.axhline(authors, color="gray", linewidth=0.8, label=label)
            name_epochs(axes)
            axes.set_ylabel("accuracy")
        axes.set_ylim(lower_end([history]), 1)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.savefig(picture, dpi=100)


def lower_end(histories):
    """Return where an axis of accuracies begins that shows the ends of all curves."""
    ends = [history[name][-1] for history in histories for name in ("accuracy", "val_accuracy")]
    return min(0.98, min(ends) - 0.01)


def plot_curve(axes, epochs, accuracy, **look):
    """Draw an accuracy over the epochs, that of a single epoch as a point; return the line."""
    (line,) = axes.plot(epochs, accuracy, marker="o" if len(epochs) == 1 else None, **look)
    return line


def name_epochs(axes):
    """Name the epochs below the axes, by whole numbers."""
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

    with style():
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
    """Draw runs of any networks, seeds and numbers of epochs in one picture.

    Training accuracy on the left, validation accuracy beside it, test accuracies on the right, on
    the scale of `scale_by_errors`. Runs that differ in their seeds alone have one look: they are
    thin, their median is thick. It is 1200 x 700 pixels, or higher for more than four networks.

    Args:
        run_dirs: the `Path`s of the directories of the runs.
        picture: the `Path` of the file.

    Returns, Raises: as `plot_accuracy`.
    """
    groups = grouped(run_dirs)
    with style():
        height = 7 + 0.2 * max(0, len(groups) - 4)
        figure = Figure(figsize=(12, height), dpi=100, layout="constrained")
        training, validation, test = figure.subplots(1, 3, sharey=True, width_ratios=(5, 5, 2))
        for axes, name in ((training, "training"), (validation, "validation"), (test, "test")):
            axes.set_title(f"{name} accuracy")
            scale_by_errors(axes)
        legend = {}
        for place, (label, runs) in enumerate(groups.items()):
            line, mark = LINES[place // len(COLORS) % len(LINES)]
            look = {"color": COLORS[place % len(COLORS)], "linestyle": line}
            for axes, column in ((training, "accuracy"), (validation, "val_accuracy")):
                histories = [history for _, history in runs]
                median = plot_runs(
                    axes, histories, column, look | {"linewidth": 0.5}, look | {"linewidth": 2}
                )
                name_epochs(axes)
            accuracies = [metrics["test_accuracy"] for metrics, _ in runs]
            test.plot([place] * len(runs), accuracies, mark, color=look["color"], fillstyle="none")
            seeds = f" (mean of {len(runs)} seeds, whose median is thick)" if runs[1:] else ""
            legend[f"{label}: test accuracy {np.mean(accuracies):.4f}{seeds}"] = median
        training.set_ylabel("accuracy, logarithmic in the errors")
        test.set_xticks([])
        test.margins(x=0.5)
        training.set_ylim(bottom=max(0, training.get_ylim()[0]))  # no accuracy is lower
        set_ticks(training)
        # Given as arguments, labels may begin with "_", too.
        figure.legend(legend.values(), legend.keys(), loc="outside lower center")
        figure.savefig(picture, dpi=100)
    return picture


def plot_runs(axes, histories, column, thin, thick):
    """Draw a column of the histories of several runs, and their median.

    Args:
        axes: where to draw.
        histories: of one run or more, what `runs.read_run` returns of them.
        column: a key of these, `accuracy` or `val_accuracy`.
        thin: the look of a run, a dict of options of `Axes.plot`.
        thick: the look of the median.

    Returns:
        The line of the median.
    """
    for history in histories:
        plot_curve(axes, history["epoch"], history[column], **thin)
    median = np.median([history[column] for history in histories], axis=0)
    return plot_curve(axes, histories[0]["epoch"], median, **thick)


def grouped(run_dirs):
    """Return lists of runs that differ in their seeds alone, by labels that tell them apart.

    A run is what `runs.read_run` returns. No seed is twice in a list.
    """
    groups = {}
    for run_dir in run_dirs:
        metrics, history = read_run(run_dir)
        made_of = [metrics.get(name) for name in MADE_OF]
        for again in ("", run_dir.name):  # a seed that is in the list begins one of its own
            key = network_and_epochs(metrics), *made_of, str(run_dir.parent), again
            seeds = groups.setdefault(key, {})
            if metrics["seed"] not in seeds:
                seeds[metrics["seed"]] = metrics, history
                break
    names = *MADE_OF.values(), "", ""
    labels = {}
    for (title, *values), seeds in groups.items():
        others = zip(*(other for (of, *other) in groups if of == title), strict=True)
        label = f"{title}, seed {next(iter(seeds))}" if len(seeds) == 1 else title
        parts = [
            f"{name} {str(value)[:7]}" if name else value
            for name, value, values_of_others in zip(names, values, others, strict=True)
            if value not in ("", None) and len(set(values_of_others)) > 1
        ]
        labels[f"{label} ({', '.join(parts)})" if parts else label] = list(seeds.values())
    return labels


if __name__ == "__main__":
    machine.run_as_program(main)
