"""What the published runs say of the post's claims, by the README's criterion; run by hand.

`python tests/verdicts.py` prints what the README has of it, for however many runs there are in
results/published/: a table of the networks, the verdicts, and a table of all runs.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))

import plot

PUBLISHED = Path(__file__).parents[1] / "results/published"


class Network:
    """The runs of one network; `accuracies`, `wrong`, ... have a number for each."""

    def __init__(self, results, name):
        self.name = name
        runs = [plot.read_run(path) for path in plot.run_dirs_of(results, name)]
        self.metrics = [metrics for metrics, _ in runs]
        self.accuracies = [metrics["test_accuracy"] for metrics in self.metrics]
        self.wrong = [wrong(accuracy) for accuracy in self.accuracies]
        curves = [history["val_accuracy"] for _, history in runs]
        self.last = [curve[-1] for curve in curves]
        self.falls = [falls(curve) for curve in curves]
        self.spreads = [np.std(curve[50:], ddof=1) for curve in curves]

    @property
    def authors_accuracy(self):
        return self.metrics[0]["authors_test_accuracy"]


def wrong(accuracy):
    """Return how many of the 10,000 test images are wrong."""
    return round(10_000 * (1 - accuracy))


def falls(curve):
    """Count the epochs after the tenth that are 0.005 or more below the epoch before."""
    # In images of validation, whole numbers: 0.005 are 60 of 12,000.
    images = [round(12_000 * accuracy) for accuracy in curve[9:]]
    return sum(before - this >= 60 for before, this in itertools.pairwise(images))


def table(*rows):
    """Return a table of Markdown; the first row is its head."""
    rows = [[str(cell) for cell in row] for row in rows]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table_of_networks(networks):
    """Return the README's first table."""
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
    """Return the table of all runs."""
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
        )
        for network in networks
        for i in range(len(network.metrics))
    ]
    return table(head, *rows)


def verdicts(networks):
    """Return the list of the verdicts; of one seed alone, none can be given."""
    plain, large, small = networks
    ready = [network for network in networks if len(network.metrics) > 1]
    lines = [reproduction(network) for network in ready]
    for one, other in ((large, small), (large, plain), (small, plain)):
        if one in ready and other in ready:
            lines.append(difference(one, other))
            if other is plain:
                lines.append(stability(one, plain))
    waiting = [network.name for network in networks if network not in ready]
    if waiting:
        lines.append(f"No verdict on {', '.join(waiting)} yet: that takes two seeds.")
    return "\n".join(f"- {line}" for line in lines)


def reproduction(network):
    """Tell whether the author's test accuracy lies where one more run's would."""
    mean, low, high = plot.prediction_interval(network.accuracies)
    authors = network.authors_accuracy
    verdict = "is" if low <= authors <= high else "is not"
    return (
        f"{network.name}: the author's {authors:.4f} **{verdict} reproduced**. Mean {mean:.4f} "
        f"over {len(network.metrics)} seeds, one more run within {low:.4f} to {high:.4f}."
    )


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


def welch(one, other):
    """Return the difference of two means and the ends of Welch's 95 % interval."""
    interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    return np.array([np.mean(one) - np.mean(other), interval.low, interval.high])


def span(values, digits):
    """Write a mean and the ends of its interval."""
    mean, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{mean} ({low} to {high})"


def stability(one, plain):
    """Tell whether every run of a network has less, or more, of a measure than every plain one."""
    parts = []
    for name, here, there, digits in (
        ("falls", one.falls, plain.falls, 0),
        ("spread", one.spreads, plain.spreads, 4),
    ):
        verdict = (
            "more" if max(here) < min(there) else "less" if min(here) > max(there) else "not more"
        )
        ranges = (f"{min(v):.{digits}f} to {max(v):.{digits}f}" for v in (here, there))
        parts.append(f"**is {verdict} stable** by its {name}, {' against '.join(ranges)}")
    return f"{one.name} {', and '.join(parts)} of {plain.name}."


def texts(results):
    """Return the three parts of the README that follow from the runs in `results`."""
    networks = [Network(results, name) for name in plot.NETWORKS]
    return table_of_networks(networks), verdicts(networks), table_of_runs(networks)


if __name__ == "__main__":
    print(*texts(PUBLISHED), sep="\n\n")
