"""The report of the published runs: its tables, its verdicts and its pictures.

`python results/published/report.py` prints every text of the README.md beside it that follows
from the runs in its directory, for however many there are, and redraws `comparison.png` and
`fall.png`.
"""

import csv
import itertools
import math
import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2]))

from machine import matplotlib_importable, run_as_program
from plot import read_run, read_table

with matplotlib_importable():
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PUBLISHED = Path(__file__).parent
POST_CURVES = PUBLISHED / "post.csv"
NETWORKS = ("deep_cnn", "deep_cnn_advanced", "deep_cnn_advanced_nin")
TEST_IMAGES = 10_000
VALIDATION_IMAGES = 12_000
TRAINING_IMAGES = 48_000

# By what the plain network was trained, and what stands for it in the names of the directories.
SETS = {
    "today's rules": "",
    "rules of 2017": "-2017",
    "loss of 2017": "-2017-loss",
    "epsilon of 2017": "-2017-epsilon",
    "Keras 2.0.8 itself": "-keras2.0.8",
}

# The pictures: what is from here in blue, what is the author's in black.
ACCURACY_TICKS = (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
RUN_CURVE = {"color": "C0", "linewidth": 0.9, "alpha": 0.45}
MEDIAN_CURVE = {"color": "C0", "linewidth": 2.4}
AUTHORS_CURVE = {"color": "black", "linewidth": 1.3}
RUN_POINT = {"color": "C0", "marker": "o", "fillstyle": "none", "linestyle": "none"}
MEAN_POINT = {"color": "C0", "marker": "o", "markersize": 8, "linewidth": 2}
AUTHORS_POINT = {"color": "black", "marker": "D", "markersize": 8, "linestyle": "none"}


def main():
    """Print the texts of the report and redraw its pictures."""
    networks, sets = read_networks(PUBLISHED), read_sets(PUBLISHED)
    print(*texts(networks), *texts_on_the_failure(PUBLISHED), sep="\n\n", end="\n\n")
    print(plot_comparison(networks, PUBLISHED / "comparison.png"))
    print(plot_fall(sets, PUBLISHED / "fall.png"))


def texts(networks):
    """Return the texts of the report that follow from the runs, a list of strings.

    Args:
        networks: what `read_networks` returns.
    """
    return [
        table_of_networks(networks),
        verdicts(networks),
        table_of_runs(networks),
        table_of_the_plain_curve(networks[0]),
    ]


# The runs


class Network:
    """The runs of one network, by seed; each list has one item for each run.

    Attributes:
        name: of the network, a string, with its rules if they are not today's.
        run_dirs: the directories, `Path`s.
        metrics: what `metrics.json` holds, dicts.
        histories: what `history.csv` holds, dicts of one list of 100 numbers for each column.
        accuracies: the test accuracies, from 0 to 1.
        wrong: how many test images are wrong, whole numbers.
        last: the validation accuracies of the last epoch, from 0 to 1.
        falls: what `falls` counts.
        spreads: the standard deviations of the validation accuracy over epochs 51 to 100.
        failed: what `fails` tells.
    """

    def __init__(self, results, name):
        """Read the runs of 100 epochs of the network called `name` in the `Path` `results`.

        Raises:
            OSError, ValueError, KeyError, TypeError: as `plot.read_run`.
        """
        self.run_dirs = run_dirs_of(results, name)
        runs = [read_run(path) for path in self.run_dirs]
        self.name = name
        self.metrics = [metrics for metrics, _ in runs]
        self.histories = [history for _, history in runs]
        self.accuracies = [metrics["test_accuracy"] for metrics in self.metrics]
        self.wrong = [wrong(accuracy) for accuracy in self.accuracies]
        curves = [history["val_accuracy"] for history in self.histories]
        self.last = [curve[-1] for curve in curves]
        self.falls = [falls(curve) for curve in curves]
        self.spreads = [np.std(curve[50:], ddof=1) for curve in curves]
        self.failed = [fails(history["accuracy"]) for history in self.histories]

    @property
    def authors_accuracy(self):
        """The author's test accuracy, from 0 to 1; there must be a run, which names it."""
        return self.metrics[0]["authors_test_accuracy"]


def read_networks(results):
    """Return the list of one `Network` for each of `NETWORKS`; raises as `Network`."""
    return [Network(results, name) for name in NETWORKS]


def run_dirs_of(results, name):
    """Return the directories, `Path`s, of the runs of 100 epochs of a network, by seed."""
    files = results.glob(f"{name}-100epochs-seed*/metrics.json")
    return sorted((file.parent for file in files), key=lambda path: int(path.name.split("seed")[1]))


def posts_curves(name):
    """Return what was read off the author's figure of a network.

    Returns:
        The epochs, int (n,), and training and validation accuracies, each float (n,), from 0 to
        1, NaN where they are hidden; n is 100 or, where the first epochs are hidden, less.

    Raises:
        OSError: the file of the curves cannot be read.
    """
    rows = csv.DictReader(POST_CURVES.read_text(encoding="utf-8").splitlines())
    rows = [row for row in rows if row["model"] == name]
    training, validation = (
        np.array([float(row[column] or "nan") for row in rows])
        for column in ("accuracy", "val_accuracy")
    )
    return np.array([int(row["epoch"]) for row in rows]), training, validation


def wrong(accuracy):
    """Return how many of the 10,000 test images are wrong, a whole number."""
    return round(TEST_IMAGES * (1 - accuracy))


def falls(curve):
    """Count the epochs after the tenth that are 0.005 or more below the epoch before.

    Args:
        curve: the validation accuracies of a run, from 0 to 1, one for each epoch.
    """
    # In images of validation, whole numbers: a difference of accuracies is not exact.
    images = [round(VALIDATION_IMAGES * accuracy) for accuracy in curve[9:]]
    fall = round(0.005 * VALIDATION_IMAGES)
    return sum(before - this >= fall for before, this in itertools.pairwise(images))


def prediction_interval(values):
    """Return the mean of `values`, and the ends of the 95 % interval for one more of them.

    mean ± t sd sqrt(1 + 1 / n), where t is the 97.5 % quantile of Student's distribution with
    n - 1 degrees of freedom; `values` are n numbers, two or more.
    """
    n, mean, deviation = len(values), np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.975, n - 1) * deviation * math.sqrt(1 + 1 / n)
    return mean, mean - half, mean + half


def welch(one, other):
    """Return the difference of the means of two lists of numbers, and Welch's 95 % interval.

    Returns:
        The difference, the low and the high end of its interval, float (3,).
    """
    interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    return np.array([np.mean(one) - np.mean(other), interval.low, interval.high])


# The tables


def table(*rows):
    """Return a table of Markdown; the first row is its head."""
    rows = [[str(cell) for cell in row] for row in rows]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table_of_networks(networks):
    """Return the table with a row for each network that has runs."""
    head = "network", "parameters", "test accuracy: the author's", "here, mean", "seeds"
    rows = [
        (
            network.name,
            f"{network.metrics[0]['parameters']:,}",
            f"{network.authors_accuracy:.4f}",
            f"{np.mean(network.accuracies):.4f}",
            len(network.metrics),
            wrong(network.authors_accuracy),
            f"{np.mean(network.wrong):.1f}",
        )
        for network in networks
        if network.metrics
    ]
    return table((*head, "wrong of 10,000: the author's", "here, mean"), *rows)


def table_of_runs(networks):
    """Return the table with a row for each run."""
    head = "network", "seed", "test accuracy", "wrong", "validation at the end", "falls", "spread"
    rows = [
        (
            network.name,
            network.metrics[i]["seed"],
            f"{network.accuracies[i]:.4f}",
            network.wrong[i],
            f"{network.last[i]:.4f}",
            network.falls[i],
            f"{network.spreads[i]:.4f}",
            ", then ".join(network.metrics[i]["devices"]),
        )
        for network in networks
        for i in range(len(network.metrics))
    ]
    return table((*head, "trained on"), *rows)


def table_of_the_plain_curve(plain):
    """Return the table that lays the author's curves of the plain network beside its runs."""
    head = "epoch", "training accuracy: the author's", "here", "validation accuracy: the author's"
    rows = []
    for epoch, *authors in zip(*posts_curves(plain.name), strict=True):
        if epoch in range(30, 101, 10):  # of training, epochs 6 to 25 are hidden
            here = [
                [history[column][epoch - 1] for history in plain.histories]
                for column in ("accuracy", "val_accuracy")
            ]
            cells = zip(authors, here, strict=True)
            rows.append((epoch, *(f"{a:.4f} | {bounds(values, 4)}" for a, values in cells)))
    return table((*head, "here"), *rows)


def bounds(values, digits):
    """Write the least and the greatest of some numbers, and a dash if there are none."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}" if values else "-"


# The verdicts


def verdicts(networks):
    """Return the verdicts, a list of Markdown; of one seed alone, none can be given."""
    lines = [reproduction(network) for network in networks if len(network.metrics) > 1]
    return bullets([*lines, *comparisons(networks)])


def comparisons(networks):
    """Return the lines that compare the networks, and name those that have too few runs for it."""
    plain, large, small = networks
    ready = [network for network in networks if len(network.metrics) > 1]
    lines = []
    for one, other in ((large, small), (large, plain), (small, plain)):
        if one in ready and other in ready:
            lines.append(difference(one, other))
            if other is plain:
                lines += stability(one, plain)
    waiting = [network.name for network in networks if network not in ready]
    if waiting:
        lines.append(f"No verdict on {', '.join(waiting)} yet: that takes two seeds.")
    return lines


def bullets(lines):
    """Return a list of Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def reproduction(network):
    """Tell whether the author's test accuracy lies where one more run's would."""
    mean, low, high = prediction_interval(network.accuracies)
    authors, n = network.authors_accuracy, len(network.metrics)
    reproduced = low <= authors <= high
    verdict = "is" if reproduced else "is not"
    line = (
        f"{network.name}: the author's {authors:.4f} **{verdict} reproduced**. Mean {mean:.4f} "
        f"over {n} seeds, one more run within {low:.4f} to {high:.4f}."
    )
    # In images, whole numbers: the author's accuracy is rounded to one of them.
    side = (
        "below"
        if wrong(authors) > max(network.wrong)
        else "above"
        if wrong(authors) < min(network.wrong)
        else None
    )
    if side:
        line += f" The author's lies {side} all {n} runs here, {bounds(network.accuracies, 4)}"
        line += ": the interval is wide." if reproduced else "."
    return line


def difference(one, other):
    """Tell how much better or worse one network is than another, with Welch's intervals."""
    gap = welch(one.accuracies, other.accuracies)
    ratio = np.exp(welch(np.log(other.wrong), np.log(one.wrong)))
    authors = (1 - other.authors_accuracy) / (1 - one.authors_accuracy)
    verdict = "better" if gap[1] > 0 else "worse" if gap[2] < 0 else "not shown to be better"
    return (
        f"{one.name} **is {verdict}** than {other.name}: by {span(gap, 4)} in accuracy. "
        f"The latter makes {span(ratio, 2)} times as many errors (the author's: {authors:.2f})."
    )


def span(values, digits):
    """Write a mean and the ends of its interval."""
    mean, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{mean} ({low} to {high})"


def stability(one, plain):
    """Tell of each measure whether all runs of a network have less, or more, than all plain ones.

    Returns:
        Two lines: by the falls, by the spread.
    """
    lines = []
    for measure, here, there, digits in (
        ("falls", one.falls, plain.falls, 0),
        ("spread", one.spreads, plain.spreads, 4),
    ):
        verdict = (
            "more" if max(here) < min(there) else "less" if min(here) > max(there) else "not more"
        )
        lines.append(
            f"{one.name} **is {verdict} stable** than {plain.name} by its {measure}: "
            f"{bounds(here, digits)} against {bounds(there, digits)}."
        )
    return lines


# Why the plain network failed


def read_sets(results):
    """Return a dict of the runs of the plain network, each a `Network`, by a key of `SETS`."""
    return {name: Network(results, f"deep_cnn{suffix}") for name, suffix in SETS.items()}


def drop(training):
    """Return how far a run ends below its best, 0 or less if it does not.

    That is the highest mean of ten consecutive epochs before the last ten, less the mean of the
    last ten.

    Args:
        training: the training accuracies of a run, from 0 to 1, one for each epoch; what is NaN
            is in no mean.
    """
    means = np.convolve(training, np.full(10, 0.1), "valid")
    return np.nanmax(means[:-10]) - means[-1]


def fails(training):
    """Tell whether a run fails: whether it ends 0.005 or more below its best."""
    # In images of ten epochs, whole numbers: a difference of accuracies is not exact.
    return round(10 * TRAINING_IMAGES * drop(training)) >= 0.005 * 10 * TRAINING_IMAGES


def clipped(run_dir):
    """Return how many of the test images that a run got wrong have p < 1e-7 for their digit."""
    table = read_table(run_dir / "predictions.csv", TEST_IMAGES)
    rows = zip(table["label"], table["prediction"], table["probability"], strict=True)
    return sum(label != prediction and p < 1e-7 for label, prediction, p in rows)


def texts_on_the_failure(results):
    """Return the texts of the report on the failure of the plain network, a list of strings.

    Args:
        results: the `Path` of the directory of the runs.
    """
    sets = read_sets(results)
    then = [Network(results, f"{name}-2017") for name in NETWORKS]
    counts = [f"{network.name}: {failures(network)}." for network in then]
    return [
        bullets(verdict_on(name, network) for name, network in sets.items()),
        table_of_sets(sets),
        bullets([*counts, *comparisons(then)]),
        table_of_runs(then),
    ]


def failures(network):
    """Tell how many of the runs of a network fail."""
    return f"{sum(network.failed)} of {len(network.failed)} runs fail"


def verdict_on(name, network):
    """Return the verdict on a set of runs, by how many of three fail."""
    n, failed, count = len(network.failed), sum(network.failed), failures(network)
    if not n:
        return f"{name}: no run yet."
    if name == "today's rules":
        return f"By today's rules {count}."
    if name == "Keras 2.0.8 itself":
        return f"In Keras 2.0.8 itself {count}; nothing is inferred from one that does not."
    subject = f"The {name} alone"
    verdicts = "is enough", "is not enough within 100 epochs"
    if name == "rules of 2017":
        subject = "By the rules of 2017 the author's failure"
        verdicts = "is reproduced", "is not reproduced within 100 epochs"
    if failed > 1:
        return f"{subject} **{verdicts[0]}**: {count}."
    if n < 3:
        return f"No verdict on the {name} yet: {count}, and that takes three."
    return f"{subject} **{'is open' if failed else verdicts[1]}**: {count}."


def table_of_sets(sets):
    """Return the table with a row for each run of the plain network, and one for the author's."""
    head = "rules", "seed", "fails", "ends below its best by", "training accuracy at the end"
    _, authors, _ = posts_curves("deep_cnn")
    rows = [("the author's run", "-", *fate(authors), "0.9368", 632, "unknown")]
    for name, network in sets.items():
        for i, history in enumerate(network.histories):
            test = f"{network.accuracies[i]:.4f}", network.wrong[i], clipped(network.run_dirs[i])
            rows.append((name, network.metrics[i]["seed"], *fate(history["accuracy"]), *test))
    return table((*head, "test accuracy", "wrong", "of these with p < 1e-7"), *rows)


def fate(training):
    """Return what the table says of the training accuracies of a run."""
    verdict = "**yes**" if fails(training) else "no"
    return verdict, f"{round(drop(training), 4) + 0:.4f}", f"{training[-1]:.4f}"  # not -0.0000


# The pictures


def plot_fall(sets, path):
    """Draw the runs of the plain network by all rules and the author's, 1200 x 700 pixels.

    A column for each set of runs, training accuracy above, validation accuracy below, on the
    scale of `plot_comparison`.

    Args:
        sets: what `read_sets` returns.
        path: where to draw, a `Path` that ends in `.png`.

    Returns, Raises: as `plot_comparison`.
    """
    with matplotlib.style.context(["default", {"font.size": 13, "axes.titlesize": 14}]):
        figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
        figure.suptitle(
            "deep_cnn by the rules of then and now: here in blue, the author's in black"
        )
        figure.supylabel("accuracy, logarithmic in the errors", fontsize=13)
        panels = figure.subplots(2, len(sets), sharex=True, sharey=True)
        epochs, *authors = posts_curves("deep_cnn")
        columns = ("accuracy", "training"), ("val_accuracy", "validation")
        for (column, label), curve, row in zip(columns, authors, panels, strict=True):
            row[0].set_ylabel(label)
            for axes, network in zip(row, sets.values(), strict=True):
                axes.set_yscale("function", functions=(from_accuracy, to_accuracy))
                axes.grid(axis="y", linewidth=0.4)
                axes.plot(epochs, curve, **AUTHORS_CURVE)
                for history in network.histories:
                    axes.plot(history["epoch"], history[column], **RUN_CURVE | {"alpha": 0.8})
        for top, bottom, (name, network) in zip(*panels, sets.items(), strict=True):
            n = len(network.metrics)
            top.set_title(f"{name}\n{n} run{'s' * (n != 1)}")
            bottom.set_xlabel("epoch")
        set_ticks(panels[0, 0])
        figure.savefig(path, dpi=100)
    return path


def plot_comparison(networks, path):
    """Draw the runs and the author's, 1200 x 900 pixels.

    For each network the validation accuracy of its runs, thin, their median, thick, and the
    author's; at last the test accuracies, with mean and prediction interval, beside the
    author's. The scale is logarithmic in the errors, so that no run falls out of it; of an
    interval, what lies above 0.9995 does.

    Args:
        networks: what `read_networks` returns.
        path: where to draw, a `Path` that ends in `.png`.

    Returns:
        `path`.

    Raises:
        OSError: the author's curves cannot be read, or the picture not be written.
    """
    # Whatever the user's matplotlibrc says; larger letters, as a README shows it smaller.
    with matplotlib.style.context(["default", {"font.size": 13, "axes.titlesize": 14}]):
        figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
        figure.suptitle("100 epochs on MNIST: the runs here in blue, the author's in black")
        figure.supylabel("accuracy, on a scale that is logarithmic in the errors", fontsize=13)
        *panels, last = figure.subplots(2, 2).ravel()
        for axes in (*panels, last):
            axes.set_yscale("function", functions=(from_accuracy, to_accuracy))
            axes.grid(axis="y", linewidth=0.4)
        for axes, network in zip(panels, networks, strict=True):
            axes.sharey(panels[0])
            plot_validation(axes, network)
        plot_test_accuracies(last, networks)
        for axes in (*panels, last):
            set_ticks(axes)
        figure.legend(handles=legend_handles(), loc="outside lower center", ncols=3)
        figure.savefig(path, dpi=100)
    return path


def from_accuracy(accuracy):
    """Return where accuracies stand on the scale of `plot_comparison`, which ends at 0.9995.

    Args:
        accuracy: a number or an array; so is what is returned.
    """
    return -np.log10(np.maximum(1 - accuracy, 0.0005))


def to_accuracy(position):
    """Return the accuracies, a number or an array, at positions of that scale."""
    return 1 - 10.0**-position


def set_ticks(axes):
    """Name the accuracies that lie within the axes."""
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in ACCURACY_TICKS if low < tick < high])
    axes.yaxis.set_major_formatter("{x:g}")


def plot_validation(axes, network):
    """Draw the validation accuracy of the runs of a network, their median, and the author's."""
    curves = [history["val_accuracy"] for history in network.histories]
    axes.set_title(f"{network.name}: validation accuracy")
    axes.set_xlabel("epoch")
    for history, curve in zip(network.histories, curves, strict=True):
        axes.plot(history["epoch"], curve, **RUN_CURVE)
    if curves:
        axes.plot(network.histories[0]["epoch"], np.median(curves, axis=0), **MEDIAN_CURVE)
    epochs, _, validation = posts_curves(network.name)
    axes.plot(epochs, validation, **AUTHORS_CURVE)


def plot_test_accuracies(axes, networks):
    """Draw the test accuracies of all runs; if there are two, with mean and interval."""
    axes.set_title("test accuracy after epoch 100")
    names = [network.name.replace("_advanced", "\n_advanced") for network in networks]
    axes.set_xticks(range(len(networks)), names)
    axes.set_xlim(-0.5, len(networks) - 0.5)
    for place, network in enumerate(networks):
        n = len(network.accuracies)
        places = place - 0.4 + 0.3 * (np.arange(n) + 0.5) / n if n else []
        axes.plot(places, network.accuracies, **RUN_POINT)
        if n:
            axes.plot([place + 0.25], [network.authors_accuracy], **AUTHORS_POINT)
        if n > 1:
            mean, low, high = prediction_interval(network.accuracies)
            axes.errorbar(place, mean, [[mean - low], [high - mean]], capsize=8, **MEAN_POINT)


def legend_handles():
    """Return what the legend shows: a column each for the runs, their middle, the author's."""
    labels = {
        "one run here": RUN_CURVE,
        "test accuracy of one run here": RUN_POINT,
        "median of the runs here": MEDIAN_CURVE,
        "mean, 95 % prediction interval": MEAN_POINT,
        "the author's run": AUTHORS_CURVE,
        "the author's test accuracy": AUTHORS_POINT,
    }
    return [Line2D([], [], label=label, **style) for label, style in labels.items()]


if __name__ == "__main__":
    run_as_program(main)
