"""The report of the published runs: its tables, its verdicts and its pictures.

`python results/published/report.py` prints every text of the README.md beside it that follows
from the runs in its directory, for however many there are, and redraws `comparison.png`,
`fall.png` and `improvements.png`.
"""

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import machine

with machine.explain_missing_package():
    import numpy as np
    from scipy import stats

    machine.import_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    import plot
    from runs import AUTHORS_TEST_ACCURACY, read_run, read_table

PUBLISHED = Path(__file__).parent
PLAIN = "deep_cnn"
NETWORKS = (PLAIN, "deep_cnn_advanced", "deep_cnn_advanced_nin")
TEST_IMAGES = 10_000
VALIDATION_IMAGES = 12_000
# Of training, in ten epochs. What runs are judged by is compared in images, whole numbers: a
# difference of accuracies is not exact.
IMAGES_OF_TEN = 10 * 48_000
# Mean training accuracy of the last ten epochs of the author's plain run, in post.csv.
AUTHORS_END = 0.9640

# By what the plain network was trained, and what stands for it in the names of the directories.
SETS = {
    "today's rules": "",
    "rules of 2017": "-2017",
    "loss of 2017": "-2017-loss",
    "epsilon of 2017": "-2017-epsilon",
    "Keras 2.0.8 itself": "-keras2.0.8",
}

# What the plain network is improved by, and the network that has that and no more.
IMPROVEMENTS = {
    "none": PLAIN,
    "He initialization": "deep_cnn_he",
    "batch normalization": "deep_cnn_bn",
    "dropout": "deep_cnn_dropout",
    "all three": "deep_cnn_advanced",
}
_, *ALONE, _ = IMPROVEMENTS

# The pictures: large letters, as a README shows them smaller; what is from here in blue, what is
# the author's in black.
LETTERS = {"font.size": 13, "axes.titlesize": 14}
RUN_CURVE = {"color": "C0", "linewidth": 0.9, "alpha": 0.45}
MEDIAN_CURVE = {"color": "C0", "linewidth": 2.4}
AUTHORS_CURVE = {"color": "black", "linewidth": 1.3}
RUN_POINT = {"color": "C0", "marker": "o", "fillstyle": "none", "linestyle": "none"}
MEAN_POINT = {"color": "C0", "marker": "o", "markersize": 8, "linewidth": 2}
AUTHORS_POINT = {"color": "black", "marker": "D", "markersize": 8, "linestyle": "none"}


def main():
    """Print the texts of the report and redraw its pictures."""
    every = read_all(PUBLISHED)
    print(*texts(every), sep="\n\n", end="\n\n")
    print(plot_comparison(networks_of(every), PUBLISHED / "comparison.png"))
    print(plot_sets(sets_of(every), PUBLISHED / "fall.png"))
    print(plot_improvements(improvements_of(every), PUBLISHED / "improvements.png"))


def texts(every):
    """Return the texts of the report that follow from what `read_all` returns, strings."""
    networks, then = networks_of(every), networks_of(every, "-2017")
    sets, improvements = sets_of(every), improvements_of(every)
    return [
        table_of_networks(networks),
        verdicts(networks),
        table_of_runs([*networks, *then]),
        bullets(verdict_on(rules, runs) for rules, runs in sets.items()),
        table_of_sets(sets),
        bullets([*(f"{runs.name}: {how_many_fail(runs)}." for runs in then[1:]), *rescues(then)]),
        verdicts_on_improvements(improvements),
        table_of_improvements(improvements),
    ]


# The runs


class Runs:
    """The runs of one network by one set of rules; each list has one item for each run, by seed."""

    def __init__(self, name, run_dirs, runs):
        """Take what `runs.read_run` read.

        Args:
            name: of the network, with its rules if they are not today's.
            run_dirs: a list of the `Path`s of the runs.
            runs: a list of the metrics and the history of each.
        """
        self.name = name
        self.authors_accuracy = AUTHORS_TEST_ACCURACY.get(name.split("-")[0])
        self.run_dirs = run_dirs
        self.metrics = [metrics for metrics, _ in runs]
        self.histories = [history for _, history in runs]  # each a dict of lists of 100 numbers
        self.accuracies = [metrics["test_accuracy"] for metrics in self.metrics]  # from 0 to 1
        self.wrong = [wrong(accuracy) for accuracy in self.accuracies]
        training = [history["accuracy"] for history in self.histories]
        self.failed = [fails(curve) for curve in training]
        ends = zip(self.failed, training, strict=True)
        self.unlearned = [not (failed or learns(curve)) for failed, curve in ends]
        curves = [history["val_accuracy"] for history in self.histories]
        self.falls = [count_falls(curve) for curve in curves]
        self.spreads = [np.std(curve[50:], ddof=1) for curve in curves]  # over epochs 51 to 100

    def first(self, n):
        """Return the `Runs` of the first `n` seeds."""
        runs = list(zip(self.metrics, self.histories, strict=True))
        return Runs(self.name, self.run_dirs[:n], runs[:n])


def read_all(results):
    """Read all runs of the report, each once.

    Args:
        results: the `Path` of the directory of the runs.

    Returns:
        A dict of one `Runs` for each network by each set of rules, by its name: that of the
        network, with its rules if they are not today's.

    Raises:
        OSError, ValueError, KeyError, TypeError: as `runs.read_run`.
    """
    names = {PLAIN + suffix for suffix in SETS.values()}
    for network in (*NETWORKS, *IMPROVEMENTS.values()):
        names |= {network, f"{network}-2017"}
    return {name: read_runs(results, name) for name in names}


def read_runs(results, name):
    """Read the runs of 100 epochs of the network called `name`, with its rules, as `read_all`."""
    run_dirs = run_dirs_of(results, name)
    return Runs(name, run_dirs, [read_run(path) for path in run_dirs])


def networks_of(every, suffix=""):
    """Return a list of one `Runs` for each of `NETWORKS`, by the rules that `suffix` stands for.

    Of the plain network three seeds count, as the criterion has it.
    """
    plain, *others = (every[name + suffix] for name in NETWORKS)
    return [plain.first(3), *others]


def sets_of(every):
    """Return a dict of one `Runs` of the plain network, of three seeds, for each key of `SETS`."""
    return {rules: every[PLAIN + suffix].first(3) for rules, suffix in SETS.items()}


def improvements_of(every):
    """Return the runs of the plain network with each of `IMPROVEMENTS`, of all seeds.

    Returns:
        For the rules of 2017 and for today's, a dict of one `Runs` for each improvement.
    """
    return {
        rules: {what: every[name + SETS[rules]] for what, name in IMPROVEMENTS.items()}
        for rules in ("rules of 2017", "today's rules")
    }


def run_dirs_of(results, name):
    """Return the directories, `Path`s, of the runs of 100 epochs of a network, by seed.

    What has been moved aside, to `...-seed0-before` for instance, is none of them.
    """
    start = f"{name}-100epochs-seed"
    ends = [file.parent.name[len(start) :] for file in results.glob(f"{start}*/metrics.json")]
    return [results / f"{start}{seed}" for seed in sorted(filter(str.isdecimal, ends), key=int)]


def posts_curves(name):
    """Return what was read off the author's figure of a network.

    Returns:
        The epochs, int (n,), and training and validation accuracies, each float (n,), from 0 to
        1, NaN where they are hidden; n is 100 or, where the first epochs are hidden, less.

    Raises:
        OSError: the file of the curves cannot be read.
    """
    file = PUBLISHED / "post.csv"
    rows = np.genfromtxt(file, delimiter=",", names=True, dtype=None, encoding="utf-8")
    rows = rows[rows["model"] == name]
    return rows["epoch"], rows["accuracy"], rows["val_accuracy"]


def wrong(accuracy):
    """Return how many of the 10,000 test images are wrong, a whole number."""
    return round(TEST_IMAGES * (1 - accuracy))


def count_falls(validation):
    """Count the epochs after the tenth that are 0.005 or more below the epoch before.

    Args:
        validation: the validation accuracies of a run, from 0 to 1, one for each epoch.
    """
    # In images of validation, whole numbers: a difference of accuracies is not exact.
    images = [round(VALIDATION_IMAGES * accuracy) for accuracy in validation[9:]]
    fall = round(0.005 * VALIDATION_IMAGES)
    return sum(before - this >= fall for before, this in itertools.pairwise(images))


def below_best(training):
    """Return how far a run ends below its best, 0 or less if it does not.

    That is the highest mean of ten consecutive epochs before the last ten, less the mean of the
    last ten.

    Args:
        training: the training accuracies of a run, from 0 to 1, one for each epoch; what is NaN
            is in no mean.
    """
    return best_of_ten(training) - np.mean(training[-10:], dtype=float)


def best_of_ten(training):
    """Return the highest mean of ten consecutive epochs before the last ten; as `below_best`."""
    means = np.convolve(training, np.full(10, 0.1), "valid")
    return np.nanmax(means[:-10])


def falls_from(training):
    """Return the epoch from which on a run stays 0.005 or more below its best, None if it does not.

    Args:
        training: as of `below_best`, and its best is meant.
    """
    best = round(IMAGES_OF_TEN * best_of_ten(training))
    stands = np.round(IMAGES_OF_TEN * np.asarray(training)) > best - 0.005 * IMAGES_OF_TEN
    last = np.flatnonzero(stands)[-1] + 1  # of the epochs, from 1
    return last + 1 if last < len(training) else None


def fails(training):
    """Tell whether a run breaks down: whether it ends 0.005 or more below its best."""
    return round(IMAGES_OF_TEN * below_best(training)) >= 0.005 * IMAGES_OF_TEN


def learns(training):
    """Tell whether a run ends above the author's, which broke down, in the mean of ten epochs."""
    return round(IMAGES_OF_TEN * np.mean(training[-10:])) > round(IMAGES_OF_TEN * AUTHORS_END)


def count_clipped(run_dir):
    """Return how many of the test images that a run got wrong have p < 1e-7 for their digit."""
    table = read_table(run_dir / "predictions.csv", TEST_IMAGES)
    rows = zip(table["label"], table["prediction"], table["probability"], strict=True)
    return sum(label != prediction and p < 1e-7 for label, prediction, p in rows)


def prediction_interval(values):
    """Return the mean of `values`, and the ends of the 95 % interval for one more of them.

    mean ± t sd sqrt(1 + 1 / n), where t is the 97.5 % quantile of Student's distribution with
    n - 1 degrees of freedom; `values` are n numbers, two or more.
    """
    n, mean, deviation = len(values), np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.975, n - 1) * deviation * np.sqrt(1 + 1 / n)
    return mean, mean - half, mean + half


def welch(one, other):
    """Return the difference of the means of two lists of numbers, and Welch's 95 % interval.

    Returns:
        The difference, the low and the high end of its interval, float (3,).
    """
    interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    return np.array([np.mean(one) - np.mean(other), interval.low, interval.high])


# The tables


def table(head, rows):
    """Return a table of Markdown: its head and its rows are strings, with " | " between cells."""
    line = " | ".join("---" for _ in head.split(" | "))
    return "\n".join(f"| {row} |" for row in (head, line, *rows))


def table_of_networks(networks):
    """Return the table with a row for each network that has runs."""
    head = (
        "network | parameters | test accuracy: the author's | here, mean | seeds | "
        "wrong of 10,000: the author's | here, mean"
    )
    rows = [
        f"{runs.name} | {runs.metrics[0]['parameters']:,} | {runs.authors_accuracy:.4f} | "
        f"{np.mean(runs.accuracies):.4f} | {len(runs.metrics)} | {wrong(runs.authors_accuracy)} | "
        f"{np.mean(runs.wrong):.1f}"
        for runs in networks
        if runs.metrics
    ]
    return table(head, rows)


def table_of_runs(networks):
    """Return the table with a row for each run."""
    head = "network | seed | test accuracy | wrong | falls | spread"
    rows = [
        f"{runs.name} | {metrics['seed']} | {runs.accuracies[i]:.4f} | {runs.wrong[i]} | "
        f"{runs.falls[i]} | {runs.spreads[i]:.4f}"
        for runs in networks
        for i, metrics in enumerate(runs.metrics)
    ]
    return table(head, rows)


def table_of_sets(sets):
    """Return the table with a row for each run of the plain network, and one for the author's."""
    head = (
        "rules | seed | breaks down | ends below its best by | by 0.005 or more from epoch | "
        "training accuracy at the end | wrong | of these with p < 1e-7"
    )
    _, training, _ = posts_curves(PLAIN)
    authors = wrong(AUTHORS_TEST_ACCURACY[PLAIN])
    rows = [f"the author's run | - | {end_of(training)} | {authors} | unknown"]
    for rules, runs in sets.items():
        rows += [
            f"{rules} | {runs.metrics[i]['seed']} | {end_of(history['accuracy'])} | "
            f"{runs.wrong[i]} | {count_clipped(runs.run_dirs[i])}"
            for i, history in enumerate(runs.histories)
        ]
    return table(head, rows)


def end_of(training):
    """Write the cells of a run, or the author's, that follow from its training accuracies."""
    verdict = "**yes**" if fails(training) else "no"
    below = round(below_best(training), 4) + 0  # not -0.0000
    return f"{verdict} | {below:.4f} | {falls_from(training) or '-'} | {training[-1]:.4f}"


def bounds(values, digits):
    """Write the least and the greatest of some numbers, once if these are one, or a dash."""
    ends = [f"{value:.{digits}f}" for value in (min(values), max(values))] if values else ["-"]
    return " to ".join(dict.fromkeys(ends))


# The verdicts


def bullets(lines):
    """Return a list of Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def verdicts(networks):
    """Return the verdicts, a list of Markdown; of one seed alone, none can be given."""
    ready = [runs for runs in networks if len(runs.metrics) > 1]
    lines = [reproduction(runs) for runs in ready]
    _, advanced, nin = networks
    if advanced in ready and nin in ready:
        lines.append(difference(advanced, nin))
    return bullets([*lines, *rescues(networks)])


def rescues(networks):
    """Return the lines that compare the post's two networks with the plain one.

    They name those of the three that have too few runs for it.
    """
    plain, *others = networks
    lines = []
    for one in others:
        if min(len(one.metrics), len(plain.metrics)) > 1:
            lines += [difference(one, plain), stability(one, plain)]
    waiting = [runs.name for runs in networks if len(runs.metrics) < 2]
    if waiting:
        lines.append(f"No verdict on {', '.join(waiting)} yet: that takes two seeds.")
    return lines


def reproduction(runs):
    """Tell whether the author's test accuracy lies where one more run's would."""
    mean, low, high = prediction_interval(runs.accuracies)
    authors, n = runs.authors_accuracy, len(runs.metrics)
    reproduced = low <= authors <= high
    verdict = "reproduced" if reproduced else "not reproduced"
    line = (
        f"{runs.name}: the author's {authors:.4f} **is {verdict}**. Mean {mean:.4f} "
        f"over {n} seeds, one more run within {low:.4f} to {high:.4f}."
    )
    # In images, whole numbers: the author's accuracy is rounded to one of them.
    below, above = wrong(authors) > max(runs.wrong), wrong(authors) < min(runs.wrong)
    if below or above:
        side = "below" if below else "above"
        line += f" The author's lies {side} all {n} runs here, {bounds(runs.accuracies, 4)}"
        line += ": the interval is wide." if reproduced else "."
    return line


def difference(one, other):
    """Tell how much better or worse one network is than another, with Welch's intervals."""
    gap = welch(one.accuracies, other.accuracies)
    ratio = np.exp(welch(np.log(other.wrong), np.log(one.wrong)))
    verdict = "better" if gap[1] > 0 else "worse" if gap[2] < 0 else "not shown to be better"
    line = (
        f"{one.name} **is {verdict}** than {other.name}: by {span(gap, 4)} in accuracy. "
        f"The latter makes {span(ratio, 2)} times as many errors"
    )
    if one.authors_accuracy and other.authors_accuracy:
        authors = (1 - other.authors_accuracy) / (1 - one.authors_accuracy)
        line += f" (the author's: {authors:.2f})"
    return f"{line}."


def span(values, digits):
    """Write a mean and the ends of its interval."""
    mean, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{mean} ({low} to {high})"


def stability(one, plain):
    """Tell of each measure whether all runs of a network have less, or more, than all plain."""
    parts = []
    measures = ("falls", one.falls, plain.falls, 0), ("spread", one.spreads, plain.spreads, 4)
    for measure, here, there, digits in measures:
        less, more = max(here) < min(there), min(here) > max(there)
        verdict = "more" if less else "less" if more else "not more"
        parts.append(
            f"**is {verdict} stable** by its {measure}, "
            f"{bounds(here, digits)} against {bounds(there, digits)}"
        )
    return f"Beside {plain.name}, {one.name} {', and '.join(parts)}."


def how_many_fail(runs, noun=" runs break down"):
    """Tell how many of the runs of a network break down, and how many do not learn, if any."""
    unlearned = sum(runs.unlearned)
    rest = f", {unlearned} do{'es' * (unlearned == 1)} not learn" if unlearned else ""
    return f"{sum(runs.failed)} of {len(runs.failed)}{noun}{rest}"


def verdict_on(rules, runs):
    """Return the verdict on the plain runs by a key of `SETS`, by how many of three fail."""
    n, failed, count = len(runs.failed), sum(runs.failed), how_many_fail(runs)
    if not n:
        return f"{rules}: no run yet."
    if rules == "today's rules":
        return f"With today's rules {count}."
    if rules == "Keras 2.0.8 itself":
        return f"In Keras 2.0.8 itself {count}; nothing is inferred from one that does not."
    if failed < 2 and n < 3:
        return f"No verdict on the {rules} yet: {count}, and that takes three."
    subject, claim = f"The {rules} alone", "enough"
    if rules == "rules of 2017":
        subject, claim = "With the rules of 2017 the author's breakdown", "reproduced"
    verdict = claim if failed > 1 else "open" if failed else f"not {claim} within 100 epochs"
    return f"{subject} **is {verdict}**: {count}."


# Which of the three improvements does it


def verdicts_on_improvements(improvements):
    """Return the verdicts on each improvement alone, a list of Markdown.

    Args:
        improvements: what `improvements_of` returns.
    """
    lines = []
    for rules, networks in improvements.items():
        tell = rescue if rules == "rules of 2017" else gain
        waiting = []
        for what in ALONE:
            verdict = tell(what, networks)
            lines += verdict
            if not verdict:
                waiting.append(f"{what} ({len(networks[what].metrics)} of 3 runs)")
        if waiting:
            lines.append(f"{rules}: no verdict yet on {', '.join(waiting)}.")
    return bullets(lines)


def rescue(what, then):
    """Tell whether an improvement alone rescues the plain network from the rules of 2017.

    Args:
        what: one of `ALONE`.
        then: a dict of one `Runs` for each of `IMPROVEMENTS`.

    Returns:
        A list of lines, empty if there are too few runs.
    """
    runs = then[what]
    failed, n = sum(runs.failed + runs.unlearned), len(runs.failed)
    if failed < 2 and n < 3:
        return []
    verdict = "does not rescue" if failed > 1 else "is open: it may rescue" if failed else "rescues"
    count = how_many_fail(runs)
    return [f"With the rules of 2017 {what} alone **{verdict}** the plain network: {count}."]


def gain(what, today):
    """Tell what an improvement alone is worth with today's rules; as `rescue`."""
    one, plain, advanced = (today[key] for key in (what, "none", "all three"))
    if min(len(runs.metrics) for runs in (one, plain, advanced)) < 3:
        return []
    better = welch(one.accuracies, plain.accuracies)[1] > 0
    worse = welch(one.accuracies, advanced.accuracies)[2] < 0
    verdict = "is not" if worse else "is" if better else "is open: it may be"
    share, low, high = share_of_gain(one.accuracies, plain.accuracies, advanced.accuracies)
    lines = [
        difference(one, plain),
        difference(one, advanced),
        f"{one.name} **{verdict} all of the gain** of {advanced.name}: its share is {share:.2f} "
        f"({low} to {high}; {len(plain.metrics)} seeds of {plain.name}).",
        stability(one, plain),
    ]
    return [f"With today's rules, {line[0].lower()}{line[1:]}" for line in lines]


def share_of_gain(one, plain, advanced):
    """Return which share of the gain of `advanced` over `plain` the network `one` brings.

    Args:
        one: the test accuracies of its runs, numbers from 0 to 1.
        plain: those of the plain network.
        advanced: those of the network with all improvements.

    Returns:
        The share, and as text the least and the greatest that Welch's test of its mean against
        (1 - share) times the plain one's plus share times the other's does not reject at 5 %
        (Fieller's interval), within -9 to 9.
    """
    shares = np.linspace(-9, 9, 1801)[:, None]
    weights = np.hstack([np.ones_like(shares), shares - 1, -shares])
    samples = one, plain, advanced
    means = np.array([np.mean(sample) for sample in samples])
    n = np.array([len(sample) for sample in samples])
    parts = weights**2 * [np.var(sample, ddof=1) for sample in samples] / n
    freedom = parts.sum(axis=1) ** 2 / (parts**2 / (n - 1)).sum(axis=1)
    t = np.abs(weights @ means) / np.sqrt(parts.sum(axis=1))
    kept = shares[t <= stats.t.ppf(0.975, freedom), 0]
    low = "-9 or less" if kept[0] == -9 else f"{kept[0]:.2f}"
    high = "9 or more" if kept[-1] == 9 else f"{kept[-1]:.2f}"
    return (means[0] - means[1]) / (means[2] - means[1]), low, high


def table_of_improvements(improvements):
    """Return the table with a row for each improvement by each set of rules, if it has runs."""
    head = (
        "improvement | rules | break down | test accuracy, mean | of each run | "
        "training accuracy at the end | images with p < 1e-7"
    )
    rows = []
    for what in IMPROVEMENTS:
        for rules, networks in improvements.items():
            runs = networks[what]
            if not runs.metrics:
                continue
            training = [history["accuracy"][-1] for history in runs.histories]
            each = (f"{accuracy:.4f}" for accuracy in runs.accuracies)
            clipped = (str(count_clipped(run_dir)) for run_dir in runs.run_dirs)
            rows.append(
                f"{what} | {rules} | {how_many_fail(runs, '')} | "
                f"{np.mean(runs.accuracies):.4f} | {', '.join(each)} | {bounds(training, 4)} | "
                f"{', '.join(clipped)}"
            )
    return table(head, rows)


# The pictures


def plot_comparison(networks, path):
    """Draw the runs and the author's, 1200 x 900 pixels.

    For each network the validation accuracy of its runs, thin, their median, thick, and the
    author's; at last the test accuracies, with mean and prediction interval, beside the
    author's, on the scale of `plot.scale_by_errors`.

    Args:
        networks: a list of one `Runs` for each of `NETWORKS`.
        path: where to draw, a `Path` that ends in `.png`.

    Returns:
        `path`.

    Raises:
        OSError: the author's curves cannot be read, or the picture not be written.
    """
    with plot.style(LETTERS):
        figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
        figure.suptitle("100 epochs on MNIST: the runs here in blue, the author's in black")
        figure.supylabel("accuracy, on a scale that is logarithmic in the errors", fontsize=13)
        *panels, last = figure.subplots(2, 2).ravel()
        for axes in (*panels, last):
            plot.scale_by_errors(axes)
        for axes, runs in zip(panels, networks, strict=True):
            axes.sharey(panels[0])
            plot_validation(axes, runs)
        plot_test_accuracies(last, networks)
        for axes in (*panels, last):
            plot.set_ticks(axes)
        figure.legend(handles=legend_handles(), loc="outside lower center", ncols=3)
        figure.savefig(path, dpi=100)
    return path


def plot_validation(axes, runs):
    """Draw the validation accuracy of the runs of a network, their median, and the author's."""
    axes.set_title(f"{runs.name}: validation accuracy")
    axes.set_xlabel("epoch")
    if runs.histories:
        plot.plot_runs(axes, runs.histories, "val_accuracy", RUN_CURVE, MEDIAN_CURVE)
    epochs, _, validation = posts_curves(runs.name)
    plot.plot_curve(axes, epochs, validation, **AUTHORS_CURVE)


def plot_test_accuracies(axes, networks):
    """Draw the test accuracies of all runs; if there are two, with mean and interval."""
    axes.set_title("test accuracy after epoch 100")
    names = [runs.name.replace("_advanced", "\n_advanced") for runs in networks]
    axes.set_xticks(range(len(networks)), names)
    axes.set_xlim(-0.5, len(networks) - 0.5)
    for place, runs in enumerate(networks):
        n = len(runs.accuracies)
        if n:
            places = place - 0.4 + 0.3 * (np.arange(n) + 0.5) / n
            axes.plot(places, runs.accuracies, **RUN_POINT)
            axes.plot([place + 0.25], [runs.authors_accuracy], **AUTHORS_POINT)
        if n > 1:
            mean, low, high = prediction_interval(runs.accuracies)
            axes.plot([place], [mean], **MEAN_POINT)
            # As `errorbar` does, whose line (Matplotlib 3.10.9) spoils the limits on this scale.
            ends = {"marker": "_", "markersize": 16, "markeredgewidth": 2}
            axes.plot([place] * 2, [low, high], **MEAN_POINT | ends)


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
    return [Line2D([], [], label=label, **look) for label, look in labels.items()]


def plot_sets(sets, path):
    """Draw the runs of the plain network by all rules and the author's, 1200 x 700 pixels.

    A column for each set of runs, training accuracy above, validation accuracy below, on the
    scale of `plot_comparison`.

    Args:
        sets: a dict of one `Runs` for each key of `SETS`.
        path: where to draw, a `Path` that ends in `.png`.

    Returns, Raises: as `plot_comparison`.
    """
    with plot.style(LETTERS):
        figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
        figure.suptitle("deep_cnn over 100 epochs: the runs here in blue, the author's in black")
        figure.supylabel("accuracy, logarithmic in the errors", fontsize=13)
        panels = figure.subplots(2, len(sets), sharex=True, sharey=True)
        epochs, *authors = posts_curves(PLAIN)
        for (top, bottom), (rules, runs) in zip(panels.T, sets.items(), strict=True):
            top.set_title(f"{rules}\n{how_many_fail(runs, ' break down')}")
            bottom.set_xlabel("epoch")
            for axes, curve in zip((top, bottom), authors, strict=True):
                plot.scale_by_errors(axes)
                plot.plot_curve(axes, epochs, curve, **AUTHORS_CURVE)
            plot_histories((top, bottom), runs, "C0")
        panels[0, 0].set_ylabel("training")
        panels[1, 0].set_ylabel("validation")
        plot.set_ticks(panels[0, 0])
        figure.savefig(path, dpi=100)
    return path


def plot_histories(panels, runs, color):
    """Draw the training accuracies of `runs` in the first of two panels, below it validation."""
    for axes, column in zip(panels, ("accuracy", "val_accuracy"), strict=True):
        for history in runs.histories:
            look = {"color": color, "linewidth": 0.9, "alpha": 0.8}
            plot.plot_curve(axes, history["epoch"], history[column], **look)


def plot_improvements(improvements, path):
    """Draw the runs with each improvement, with the rules of 2017 and today's, 1200 x 900 pixels.

    A column for each improvement: training accuracy, validation accuracy, and below them the
    test accuracies, on the scale of `plot.scale_by_errors`.

    Args:
        improvements: what `improvements_of` returns.
        path: where to draw, a `Path` that ends in `.png`.

    Returns:
        `path`.

    Raises:
        OSError: the picture cannot be written.
    """
    looks = {"rules of 2017": ("C1", "s"), "today's rules": ("C0", "o")}
    with plot.style(LETTERS):
        figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
        figure.suptitle("deep_cnn and what improves it, one at a time and all three")
        figure.supylabel("accuracy, logarithmic in the errors", fontsize=13)
        panels = figure.subplots(3, len(IMPROVEMENTS), sharex="row", sharey="row")
        for (*curves, test), what in zip(panels.T, IMPROVEMENTS, strict=True):
            titles = {"none": "plain", "all three": "all three"}
            curves[0].set_title(titles.get(what, f"+ {what}"))
            curves[1].set_xlabel("epoch")
            for axes in (*curves, test):
                plot.scale_by_errors(axes)
            for place, (rules, (color, mark)) in enumerate(looks.items()):
                runs = improvements[rules][what]
                plot_histories(curves, runs, color)
                places = [place] * len(runs.accuracies)
                test.plot(places, runs.accuracies, mark, color=color, fillstyle="none")
            test.set_xticks([0, 1], ["2017", "today"])
            test.set_xlim(-0.7, 1.7)
        for axes, name in zip(panels[:, 0], ("training", "validation", "test"), strict=True):
            axes.set_ylabel(name)
            plot.set_ticks(axes)
        handles = [
            Line2D([], [], color=color, marker=mark, fillstyle="none", label=rules)
            for rules, (color, mark) in looks.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        figure.savefig(path, dpi=100)
    return path


if __name__ == "__main__":
    machine.run_as_program(main)
