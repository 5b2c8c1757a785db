"""The report follows its criterion and shows every run, for however many there are."""

import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import report
from helpers import PROJECT, long_run, picture, run, write_run
from matplotlib.colors import to_rgba
from post import PARAMETERS, TEST_ACCURACY

from runs import read_run

README = (PROJECT / "results/published/README.md").read_text(encoding="utf-8")

PLAIN, ADVANCED, NIN = "deep_cnn", "deep_cnn_advanced", "deep_cnn_advanced_nin"
STEADY = [0.99] * 100
UNSTEADY = [0.99, 0.98] * 50


def write_runs(results, name, accuracies, training=STEADY, validation=STEADY):
    """Make up runs of these test accuracies; a curve is that of all, or there is one for each."""
    model = name.split("-")[0]
    curves = [np.broadcast_to(curve, (len(accuracies), 100)) for curve in (training, validation)]
    for seed, (accuracy, *of_seed) in enumerate(zip(accuracies, *curves, strict=True)):
        about = {"model": model, "seed": seed, "parameters": PARAMETERS.get(model, [136_310])[0]}
        directory = results / f"{name}-100epochs-seed{seed}"
        write_run(directory, *of_seed, test_accuracy=accuracy, **about)


def texts(results):
    return report.texts(report.read_all(results))


def networks(results, suffix=""):
    return report.networks_of(report.read_all(results), suffix)


def test_falls_are_counted_from_the_eleventh_epoch():
    curve = np.full(100, 0.99)
    curve[[8, 9, 10, 11, 99]] = 0.99, 0.98, 0.975, 0.97, 0.985
    assert report.count_falls(curve) == 3  # epochs 11, 12 and 100, by 0.005 each
    curve[10] += 1 / 12_000  # one image less
    assert report.count_falls(curve) == 2
    assert report.count_falls(np.float32(UNSTEADY)) == 45


def test_spread_is_of_epochs_51_to_100(tmp_path):
    write_runs(tmp_path, ADVANCED, [0.994], validation=[0.5] * 50 + [0.98, 0.99] * 25)
    (spread,) = report.read_runs(tmp_path, ADVANCED).spreads
    assert spread == pytest.approx(0.005 * (50 / 49) ** 0.5)


def test_prediction_interval_is_that_of_the_criterion():
    """By hand: mean 0.992, sd 0.001, t(2) = 4.302653, n = 3."""
    mean, low, high = report.prediction_interval([0.991, 0.992, 0.993])
    half = 4.302653 * 0.001 * (4 / 3) ** 0.5
    assert (mean, low, high) == pytest.approx((0.992, 0.992 - half, 0.992 + half))


def test_seeds_are_in_the_order_of_numbers_and_what_is_moved_aside_is_none(tmp_path):
    for seed in (10, 9, 1, "9-before", "1.old"):
        long_run(tmp_path / f"deep_cnn-100epochs-seed{seed}")
    long_run(tmp_path / "deep_cnn-99epochs-seed0")
    (tmp_path / "deep_cnn-100epochs-seed2.unfinished").mkdir()
    found = [path.name for path in report.run_dirs_of(tmp_path, "deep_cnn")]
    assert found == [f"deep_cnn-100epochs-seed{seed}" for seed in (1, 9, 10)]


@pytest.mark.parametrize(
    ("wrong", "reproduced", "side"),
    [
        ([68, 58, 48], True, None),
        ([117, 107, 97], True, "above"),  # the interval ends 0.00497 above the mean
        ([118, 108, 98], False, "above"),
        ([30, 29, 28], False, "below"),
        ([57, 30], True, "below"),
        ([59, 80], True, "above"),
        ([30, 58], True, None),
        ([58, 80], True, None),
    ],
)
def test_reproduced_if_the_authors_accuracy_could_be_one_more_run(
    wrong, reproduced, side, tmp_path
):
    """The author's 0.9942 are 58 wrong images; no interval is called wide that refutes."""
    accuracies = [float(np.float32(1 - n / 10_000)) for n in wrong]  # as a run leaves them
    write_runs(tmp_path, ADVANCED, accuracies)
    line = report.reproduction(report.read_runs(tmp_path, ADVANCED))
    n, mean = len(wrong), np.mean(accuracies)
    verdict = "is reproduced" if reproduced else "is not reproduced"
    assert f"the author's 0.9942 **{verdict}**. Mean {mean:.4f} over {n} seeds, one " in line
    of_all = f"{side} all {n} runs here, {min(accuracies):.4f} to {max(accuracies):.4f}"
    remark = f" The author's lies {of_all}{': the interval is wide' * reproduced}." if side else ""
    low, high = report.prediction_interval(accuracies)[1:]
    assert line.endswith(f"more run within {low:.4f} to {high:.4f}.{remark}")


def test_difference_by_hand(tmp_path):
    """Welch: n = 3 and 2, variances 1e-6 and 2e-6 about 0.994 and 0.990; 2.083 is df."""
    write_runs(tmp_path, ADVANCED, [0.993, 0.994, 0.995])
    write_runs(tmp_path, NIN, [0.989, 0.991])
    both = [report.read_runs(tmp_path, name) for name in (ADVANCED, NIN)]
    gap = report.welch(*(runs.accuracies for runs in both))
    a, b = 1e-6 / 3, 2e-6 / 2
    df = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)
    half = report.stats.t.ppf(0.975, df) * (a + b) ** 0.5
    assert gap == pytest.approx([0.004, 0.004 - half, 0.004 + half])
    line = report.difference(*both)
    assert "**is not shown to be better**" in line  # by 0.0040 (-0.0006 to 0.0086)
    assert "**is not shown to be better**" in report.difference(*reversed(both))
    ratio = (110 * 90) ** 0.5 / (70 * 60 * 50) ** (1 / 3)
    assert f"makes {ratio:.2f} (" in line and "(the author's: 1.48)" in line


def test_better_and_more_stable_than_the_plain_network(tmp_path):
    write_runs(tmp_path, ADVANCED, [0.994, 0.9941, 0.9942])
    write_runs(tmp_path, PLAIN, [0.96, 0.961], validation=UNSTEADY)
    three = networks(tmp_path)
    text = report.verdicts(three)
    assert f"- {ADVANCED} **is better** than {PLAIN}: by 0.0336 (" in text
    falls = f"- Beside {PLAIN}, {ADVANCED} **is more stable** by its falls, 0 against 45"
    spread = "**is more stable** by its spread, 0.0000 against 0.0051"
    assert f"{falls}, and {spread}.\n" in text
    worse = report.difference(*three[:2])
    assert f"{PLAIN} **is worse** than {ADVANCED}: by -0.0336 (" in worse


@pytest.mark.parametrize(
    ("here", "there", "verdict"),
    [
        ([0, 1], [2, 3], "is more stable"),
        ([0, 2], [2, 3], "is not more stable"),
        ([0, 3], [0, 0], "is not more stable"),
        ([2, 4], [0, 3], "is not more stable"),
        ([2, 3], [0, 1], "is less stable"),
    ],
)
def test_more_stable_if_each_run_has_less_of_it_than_each_of_the_other(here, there, verdict):
    one, other = (
        SimpleNamespace(name=name, falls=values, spreads=[value / 1000 for value in values])
        for name, values in ((ADVANCED, here), (PLAIN, there))
    )
    found = re.findall(r"\*\*(.*?)\*\* by its (\w+)", report.stability(one, other))
    assert found == [(verdict, "falls"), (verdict, "spread")]


@pytest.mark.parametrize(
    "seeds", [(0, 0, 0), (0, 1, 1), (0, 2, 1), (1, 2, 2), (2, 3, 2), (3, 5, 5)]
)
def test_right_for_however_many_runs(seeds, tmp_path):
    names = dict(zip(report.NETWORKS, seeds, strict=True))
    for name, n in names.items():
        write_runs(tmp_path, name, TEST_ACCURACY[name] - np.arange(n) / 1000)
    table, verdict, runs, *_ = texts(tmp_path)
    assert table.count("\n") == 1 + sum(n > 0 for n in seeds)
    assert runs.count("\n") == 1 + sum(seeds)
    ready = [name for name in names if names[name] > 1]
    assert verdict.count("reproduced") == len(ready)
    pairs = (ADVANCED, NIN), (ADVANCED, PLAIN), (NIN, PLAIN)
    assert verdict.count("better") == sum({*pair} <= {*ready} for pair in pairs)
    waiting = [name for name in names if names[name] < 2]
    assert (f"No verdict on {', '.join(waiting)} yet" in verdict) == bool(waiting)
    for name, n in names.items():
        for seed in range(n):
            accuracy = TEST_ACCURACY[name] - seed / 1000
            wrong = round(10_000 * (1 - accuracy))
            assert f"| {name} | {seed} | {accuracy:.4f} | {wrong} | 0 | 0.0000 |" in runs


def test_each_run_is_read_once(tmp_path, monkeypatch):
    for name in (PLAIN, ADVANCED, "deep_cnn_bn", f"{PLAIN}-2017", f"{PLAIN}-keras2.0.8"):
        write_runs(tmp_path, name, 0.99 - np.arange(5) / 1000)
    read = []
    monkeypatch.setattr(report, "read_run", lambda path: [read.append(path), read_run(path)][1])
    texts(tmp_path)
    assert sorted(read) == sorted(path.parent for path in tmp_path.glob("*/metrics.json"))


# The comparison


def write_published(results, seeds, collapse=False):
    """Make up runs of `NETWORKS`; return validation curves and test accuracies, by network.

    The curves change places from epoch to epoch; of three or more, the mean is not the median.
    """
    written = {}
    for network, (name, n) in enumerate(zip(report.NETWORKS, seeds, strict=True)):
        places = (np.arange(n)[:, None] + np.arange(100)) % max(n, 1)
        curves = 0.98 + 0.005 * network - 0.001 * places**2
        if collapse and name == PLAIN:
            curves[:] = 0.1
        written[name] = curves, curves[:, -1] + 0.002
        write_runs(results, name, curves[:, -1] + 0.002, validation=curves)
    return written


def compared(results, figures):
    """Draw the comparison of the runs in `results`; return its figure."""
    path = results / "comparison.png"
    assert report.plot_comparison(networks(results), path) == path
    assert picture(results, "comparison.png").shape == (900, 1200, 3)
    (figure,) = figures
    return figure


SEEDS = [((0, 0, 0), False), ((1, 2, 1), False), ((3, 5, 5), True), ((3, 12, 5), False)]


@pytest.mark.parametrize(("seeds", "collapse"), SEEDS)
def test_comparison_shows_all_runs_their_medians_and_the_authors(
    seeds, collapse, tmp_path, figures
):
    written = write_published(tmp_path, seeds, collapse)
    *panels, last = compared(tmp_path, figures).axes
    seen = []
    for axes, (name, (curves, _)) in zip(panels, written.items(), strict=True):
        assert axes.get_title() == f"{name}: validation accuracy"
        *here, author = axes.lines
        *thin, median = here or [None]
        assert [list(line.get_ydata()) for line in thin] == curves.tolist()
        if here:
            assert list(median.get_ydata()) == np.median(curves, axis=0).tolist()
            assert median.get_linewidth() >= 2.5 * max(line.get_linewidth() for line in thin)
            assert {to_rgba(line.get_color()) for line in here} == {to_rgba("C0")}
        assert to_rgba(author.get_color()) == to_rgba("black")
        epochs, _, curve = report.posts_curves(name)
        assert np.array_equal(author.get_xydata().T, (epochs, curve), equal_nan=True)
        assert len(curve) == (100 if name == PLAIN else 75)
        seen += [*curves.ravel(), *curve[~np.isnan(curve)]]
    ((bottom, top),) = {axes.get_ylim() for axes in panels}
    assert bottom < min(seen) and max(seen) < top
    assert (0.1 in panels[0].get_yticks()) == collapse and 0.99 in panels[0].get_yticks()

    bottom, top = last.get_ylim()
    for place, (name, (_, tests)) in enumerate(written.items()):
        points = [point for line in last.lines for point in line.get_xydata()]
        points = [(x, y) for x, y in points if abs(x - place) < 0.5]
        expected = [
            (place - 0.4 + 0.3 * (seed + 0.5) / len(tests), test) for seed, test in enumerate(tests)
        ]
        expected += [(place + 0.25, TEST_ACCURACY[name])] * (len(tests) > 0)
        if len(tests) > 1:  # mean and ends of the interval
            expected += [(place, value) for value in report.prediction_interval(tests)]
        assert sorted(np.round(points, 9).tolist()) == sorted(np.round(expected, 9).tolist())
        assert all(bottom < y < top for _, y in expected)
    names = [label.get_text().replace("\n", "") for label in last.get_xticklabels()]
    assert names == list(report.NETWORKS)


def test_comparison_tells_what_is_what(tmp_path, figures):
    """Each item of the legend looks like what is drawn; "logarithmic" stands at the axis."""
    write_published(tmp_path, (2, 2, 2))
    figure = compared(tmp_path, figures)
    assert figure.get_supylabel().endswith("logarithmic in the errors")
    for axes in figure.axes:  # a tenth of the errors is a step of 1
        heights = axes.yaxis.get_transform().transform([0.9, 0.99, 0.999])
        assert heights == pytest.approx([1, 2, 3])

    def look(line):
        names = "color", "linewidth", "linestyle", "alpha", "marker", "fillstyle"
        return [getattr(line, f"get_{name}")() for name in names]

    (legend,) = figure.legends
    items = {
        text.get_text(): look(line)
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    one, two, median, author = figure.axes[0].lines
    runs, authors_test, mean, *_ = figure.axes[-1].lines
    assert items["one run here"] == look(one) == look(two)
    assert items["median of the runs here"] == look(median)
    assert items["the author's run"] == look(author)
    assert items["test accuracy of one run here"] == look(runs)
    assert items["the author's test accuracy"] == look(authors_test)
    assert items["mean, 95 % prediction interval"][0] == mean.get_color()
    assert len(items) == 6


# Why the plain network broke down


def history_of(training):
    return {"accuracy": training, "val_accuracy": STEADY}


def ending_below(drop):
    """Training accuracies that end `drop` below their best."""
    return [0.9] * 40 + [0.997] * 50 + [0.997 - drop] * 10


def write_set(results, suffix, drops, name=PLAIN):
    accuracies = 0.99 - np.arange(len(drops)) / 1000
    training = np.reshape([ending_below(drop) for drop in drops], (-1, 100))
    write_runs(results, f"{name}{suffix}", accuracies, training)


FAILED, HELD = 0.03, 0.001


@pytest.mark.parametrize(
    ("training", "drop", "fails"),
    [
        (ending_below(0), 0, False),
        (ending_below(0.005), 0.005, True),
        (ending_below(0.005 - 1 / 48_000), 0.00498, False),
        ([0.9] * 90 + [0.99] * 10, -0.09, False),
        ([0.1] * 100, 0, False),
        # The best ten end before the last ten begin: here half of them are in these.
        ([0.9] * 85 + [0.99] * 10 + [0.9] * 5, 0, False),
        ([0.1] * 50 + [0.9, 0.8] * 20 + [0.85, 0.84] * 5, 0.005, True),
    ],
)
def test_a_run_fails_that_ends_below_its_best(training, drop, fails):
    assert report.below_best(training) == pytest.approx(drop, abs=1e-5)
    assert report.fails(np.float32(training)) == fails


@pytest.mark.parametrize(
    ("training", "epoch"),
    [
        (ending_below(0), None),
        (ending_below(0.005), 91),
        (ending_below(0.005 - 1 / 48_000), None),
        # It counts from where it is below for good, and down from its best ten epochs.
        ([0.9] * 40 + [0.99] * 30 + [0.9] * 10 + [0.99] + [0.9] * 19, 82),
        ([0.9] * 40 + [0.99, 0.98] * 25 + [0.981] + [0.98] * 9, 92),
        ([0.99] * 99 + [0.9], 100),
    ],
)
def test_a_run_falls_from_where_it_stays_below_its_best(training, epoch):
    assert report.falls_from(np.float32(training)) == epoch


def test_the_authors_plain_run_fails_and_none_by_todays_rules_comes_near_it():
    _, training, _ = report.posts_curves("deep_cnn")
    assert report.below_best(training) == pytest.approx(0.9972 - 0.9640, abs=1e-4)
    assert report.fails(training)
    three = networks(report.PUBLISHED)
    curves = [history["accuracy"] for runs in three for history in runs.histories]
    assert len(curves) == 13 and max(map(report.below_best, curves)) < 0.00035


@pytest.mark.parametrize(
    ("drops", "of_2017", "of_the_loss"),
    [
        ([], "rules of 2017: no run yet.", "loss of 2017: no run yet."),
        (
            [FAILED],
            *["No verdict on the {} yet: 1 of 1 runs break down, and that takes three."] * 2,
        ),
        (
            [HELD] * 2,
            *["No verdict on the {} yet: 0 of 2 runs break down, and that takes three."] * 2,
        ),
        ([FAILED] * 2, "**is reproduced**: 2 of 2", "**is enough**: 2 of 2"),
        ([FAILED, HELD, FAILED], "**is reproduced**: 2 of 3", "**is enough**: 2 of 3"),
        ([HELD, FAILED, HELD], "**is open**: 1 of 3", "**is open**: 1 of 3"),
        (
            [HELD] * 3,
            "**is not reproduced within 100 epochs**: 0 of 3",
            "**is not enough within 100 epochs**: 0 of 3",
        ),
    ],
)
def test_verdicts_on_the_failure(drops, of_2017, of_the_loss, tmp_path):
    for suffix in ("-2017", "-2017-loss", "-keras2.0.8"):
        write_set(tmp_path, suffix, drops)
    write_set(tmp_path, "", [HELD])
    lines, table = texts(tmp_path)[3:5]
    today, first, loss, epsilon, keras = lines.splitlines()
    assert today == "- With today's rules 0 of 1 runs break down."
    assert of_2017.format("rules of 2017") in first
    assert of_the_loss.format("loss of 2017") in loss
    assert epsilon == "- epsilon of 2017: no run yet."
    assert ("nothing is inferred" in keras) == bool(drops)
    assert table.count("\n") == 2 + 3 * len(drops) + 1
    for seed, drop in enumerate(drops):
        verdict = "**yes**" if drop == FAILED else "no"
        epoch = 91 if drop == FAILED else "-"
        row = f"| loss of 2017 | {seed} | {verdict} | {drop:.4f} | {epoch} | {0.997 - drop:.4f} |"
        assert f"{row} {100 + 10 * seed} |" in table


def test_images_whose_digit_is_clipped_are_counted_among_the_wrong(tmp_path):
    run_dir = write_run(tmp_path, [0.9], [0.9], test_accuracy=0.9997)
    rows = [(7, 2, 1e-8), (7, 2, 1e-6), (7, 2, 0.0)] + [(7, 7, 1e-9)] * 9_997
    lines = [f"{i},{label},{found},{p}" for i, (label, found, p) in enumerate(rows)]
    text = "\n".join(["image,label,prediction,probability", *lines]) + "\n"
    (run_dir / "predictions.csv").write_text(text)
    assert report.count_clipped(run_dir) == 2


def test_the_posts_comparison_by_the_rules_of_2017(tmp_path):
    drops = {PLAIN: [FAILED, HELD, FAILED], ADVANCED: [HELD] * 2, NIN: [HELD, FAILED]}
    for name, ends in drops.items():
        write_set(tmp_path, "-2017", ends, name)
    _, _, runs, _, _, comparison, *_ = texts(tmp_path)
    for name, failed in ((ADVANCED, "0 of 2"), (NIN, "1 of 2")):
        assert f"- {name}-2017: {failed} runs break down.\n" in comparison
    for name, ends in drops.items():
        assert runs.count(f"| {name}-2017 |") == len(ends)
    assert f"{ADVANCED}-2017 **is not shown to be better** than {PLAIN}-2017" in comparison
    assert comparison.count("stable") == 4 and "reproduced" not in comparison


@pytest.mark.parametrize("sets", [{}, {"": [HELD]}, {"": [HELD] * 3, "-2017-loss": [FAILED] * 2}])
def test_fall_shows_all_runs_and_the_authors(sets, tmp_path, figures):
    for suffix, drops in sets.items():
        write_set(tmp_path, suffix, drops)
    path = tmp_path / "fall.png"
    assert report.plot_sets(report.sets_of(report.read_all(tmp_path)), path) == path
    assert picture(tmp_path, "fall.png").shape == (700, 1200, 3)
    (figure,) = figures
    rows = np.reshape(figure.axes, (2, len(report.SETS)))
    assert [row[0].get_ylabel() for row in rows] == ["training", "validation"]
    _, training, validation = report.posts_curves(PLAIN)
    for top, bottom, (name, suffix) in zip(*rows, report.SETS.items(), strict=True):
        drops = sets.get(suffix, [])
        n = len(drops)
        assert top.get_title() == f"{name}\n{drops.count(FAILED)} of {n} break down"
        ends = [0.997 - drop for drop in drops], [0.99] * n
        for axes, curve, expected in zip((top, bottom), (training, validation), ends, strict=True):
            authors, *runs = axes.lines
            assert np.array_equal(authors.get_ydata(), curve, equal_nan=True)
            assert to_rgba(authors.get_color()) == to_rgba("black")
            assert [line.get_ydata()[-1] for line in runs] == pytest.approx(expected)


# The report as it is published


def test_readme_has_the_texts():
    for text in texts(report.PUBLISHED):
        assert f"\n\n{text}\n\n" in README


def test_readme_answers_by_the_runs():
    """Its first table, how the runs share seeds, and what lies beyond the clip."""
    every = report.read_all(report.PUBLISHED)
    sets, (_, *posts_two) = report.sets_of(every), report.networks_of(every, "-2017")
    today = report.networks_of(every)
    failed = {rules: runs.failed for rules, runs in sets.items()}

    def count(*lists):
        return f"{sum(map(sum, lists))} of {sum(map(len, lists))}"

    then = count(failed["rules of 2017"]), count(*(runs.failed for runs in posts_two))
    now = count(*(runs.failed for runs in today))
    alone = count(failed["loss of 2017"]), count(failed["epsilon of 2017"])
    rows = [line for line in README.splitlines() if line.startswith("| ")][2:7]
    assert [row.split(" | ")[-1] for row in rows] == [
        "5 of each |",
        "5, 5 and 3 |",
        f"{', '.join(then)}; {now} |",
        f"{'; '.join(alone)} |",
        f"{count(failed['Keras 2.0.8 itself'])} |",
    ]
    assert [len(runs.metrics) for runs in today] == [3, 5, 5]

    by_todays_loss = failed.pop("today's rules"), failed.pop("epsilon of 2017")
    assert (count(*failed.values()), count(*by_todays_loss)) == ("6 of 8", "0 of 6")
    text = " ".join(README.split())
    assert "eight plain runs with the old loss, of which six break down, are not eight" in text
    assert "six with today's loss, of which none breaks down" in text
    assert "six of eight plain runs break down, without it none of six (not" in text
    assert failed["rules of 2017"] == failed["loss of 2017"] == [True, False, True]
    assert "with both, seeds 0 and 2 broke down and seed 1 did not" in text

    epochs = [[report.falls_from(h["accuracy"]) for h in runs.histories] for runs in sets.values()]
    _, then, _, _, keras_then = epochs
    then.append(report.falls_from(report.posts_curves(PLAIN)[1]))
    assert "from epochs {} and {} on".format(*keras_then) in text
    assert f"those from {min(then)} to {max(then)} on" in text

    accuracy, loss = (
        sets["Keras 2.0.8 itself"].histories[0][key][-1] for key in ("accuracy", "loss")
    )
    assert f"(seed 0: {loss:.3f} and {1 - accuracy:.4f})" in text
    assert loss == pytest.approx(at_rest(accuracy), abs=1e-3)
    advanced, nin = ([report.count_clipped(path) for path in runs.run_dirs] for runs in posts_two)
    counts = "{} and {} of the wrong ones of `{}`, {} and {} of those of `{}`"
    assert counts.format(*advanced, ADVANCED, *nin, NIN) in text


def at_rest(accuracy):
    """Return the loss of a network whose every wrong image lies beyond the clip of Keras 2."""
    return -math.log(1e-7) * (1 - accuracy)


def test_readmes_logs_are_at_rest_beyond_the_clip_but_the_last():
    """Each accuracy has four decimals, and so has each loss."""
    _, text = README.split("## Where else this is seen")
    rows = re.findall(r"^\| \[.*\]\(https://.*\).* \| (\S+) \| (\S+) \| (\S+) \|$", text, re.M)
    assert len(rows) == 5
    losses, accuracies, formulas = np.transpose(rows)
    assert [f"{at_rest(accuracy):.4f}" for accuracy in accuracies.astype(float)] == list(formulas)
    distances = np.abs(losses.astype(float) - formulas.astype(float))
    assert max(distances[:-1]) < 0.0009 < distances[-1]
    assert losses[-1] == f"{math.log(10):.4f}"


def test_readme_tells_how_much_of_the_curves_can_be_read():
    ((n, total),) = re.findall(r"(\d+) of (\d+) values can be read", " ".join(README.split()))
    curves = [curve for name in report.NETWORKS for curve in report.posts_curves(name)[1:]]
    values = np.concatenate(curves)
    assert (int(n), int(total)) == (np.count_nonzero(~np.isnan(values)), len(values))


def test_command_prints_the_texts_and_redraws_the_picture(tmp_path):
    """The script as it is, in a copy of the project with other runs, from another directory."""
    published = tmp_path / "results/published"
    published.mkdir(parents=True)
    for path in (*PROJECT.glob("*.py"), *filter(Path.is_file, report.PUBLISHED.iterdir())):
        shutil.copy(path, tmp_path / path.relative_to(PROJECT))
    names = "comparison.png", "fall.png", "improvements.png"
    for name in names:
        (published / name).unlink()
    write_runs(published, ADVANCED, [0.994, 0.9941])
    code, output, errors = run(published / "report.py", cwd=published)
    assert (code, errors) == (0, "")
    pictures = "".join(f"{published / name}\n" for name in names)
    assert output == "\n\n".join([*texts(published), pictures])
    heights = [picture(published, name).shape[0] for name in names]
    assert heights == [900, 700, 900]


# Which of the three improvements does it

NOT_YET = "He initialization (0 of 3 runs), batch normalization (0 of 3 runs)"


@pytest.mark.parametrize(
    ("drops", "verdict"),
    [
        ([], "- rules of 2017: no verdict yet on {}, dropout (0 of 3 runs)."),
        ([HELD, FAILED], "- rules of 2017: no verdict yet on {}, dropout (2 of 3 runs)."),
        ([HELD] * 3, "dropout alone **rescues** the plain network: 0 of 3 runs break down."),
        (
            [HELD, FAILED, HELD],
            "dropout alone **is open: it may rescue** the plain network: 1 of 3",
        ),
        ([FAILED] * 2, "dropout alone **does not rescue** the plain network: 2 of 2 runs"),
    ],
)
def test_an_improvement_rescues_if_none_of_three_runs_breaks_down(drops, verdict, tmp_path):
    write_set(tmp_path, "-2017", drops, "deep_cnn_dropout")
    *_, lines, table = texts(tmp_path)
    assert verdict.format(NOT_YET) in lines and lines.count("\n") == 1 + ("{}" not in verdict)
    n, failed = len(drops), drops.count(FAILED)
    assert (f"\n| dropout | rules of 2017 | {failed} of {n} |" in table) == (n > 0)
    assert table.count("\n") == 1 + (n > 0)


@pytest.mark.parametrize(
    ("n", "count", "verdict"),
    [
        (1, "0 of 3 runs break down, 1 does not learn", "is open: it may rescue"),
        (3, "0 of 3 runs break down, 3 do not learn", "does not rescue"),
    ],
)
def test_an_improvement_that_does_not_learn_rescues_nothing(n, count, verdict, tmp_path):
    training = [[0.1] * 100] * n + [STEADY] * (3 - n)
    write_runs(tmp_path, "deep_cnn_he-2017", [0.1] * n + [0.99] * (3 - n), training)
    *_, lines, table = texts(tmp_path)
    assert f"He initialization alone **{verdict}** the plain network: {count}." in lines
    assert (
        f"| He initialization | rules of 2017 | {count.replace(' runs break down', '')} |" in table
    )


def test_a_run_learns_that_ends_above_the_authors():
    """A run that breaks down is not counted twice."""
    _, training, _ = report.posts_curves(PLAIN)
    assert np.mean(training[-10:]) == pytest.approx(report.AUTHORS_END, abs=5e-5)
    ends = {end: [0.9] * 90 + [end] * 10 for end in (0.9640, 0.9641)}
    assert [report.learns(curve) for curve in ends.values()] == [False, True]
    curves = map(history_of, (ending_below(0.05), *ends.values()))
    runs = report.Runs(PLAIN, [], [({"test_accuracy": 0.9}, curve) for curve in curves])
    assert (runs.failed, runs.unlearned) == ([True, False, False], [False, True, False])


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ([0.9940, 0.9941], "- today's rules: no verdict yet on {}, dropout (2 of 3 runs)."),
        (
            [0.9940, 0.9941, 0.9942],
            "**is all of the gain** of deep_cnn_advanced: its share is 1.00",
        ),
        ([0.9920, 0.9921, 0.9922], "**is not all of the gain** of deep_cnn_advanced: its share is"),
        ([0.9700, 0.9930, 0.9942], "**is open: it may be all of the gain** of deep_cnn_advanced"),
    ],
)
def test_what_an_improvement_is_worth_today(accuracies, verdict, tmp_path):
    write_runs(tmp_path, PLAIN, [0.9900, 0.9901, 0.9902])
    write_runs(tmp_path, ADVANCED, [0.9940, 0.9941, 0.9942])
    write_runs(tmp_path, "deep_cnn_dropout", accuracies)
    *_, lines, table = texts(tmp_path)
    assert verdict.format(NOT_YET) in lines
    if len(accuracies) == 3:
        assert f"- today's rules: no verdict yet on {NOT_YET}." in lines
        assert lines.count("\n") == 1 + lines.count("- With today's rules, ") == 1 + 4
        assert "; 3 seeds of deep_cnn)" in lines
        assert "deep_cnn_dropout **is" in lines and "(the author's" not in lines
    each = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
    assert f"| {np.mean(accuracies):.4f} | {each} | 0.9900 | " in table


def test_share_of_the_gain_by_hand():
    """With a gain that is known well it is Welch's interval of the two, divided by the gain."""
    one, plain = [0.992, 0.993, 0.994], [0.99, 0.9900001]
    advanced = [0.996, 0.9960001]
    share, low, high = report.share_of_gain(one, plain, advanced)
    half = 4.302653 * 0.001 / 3**0.5 / 0.006
    assert share == pytest.approx(0.5, abs=1e-4)
    assert (float(low), float(high)) == pytest.approx((0.5 - half, 0.5 + half), abs=0.011)
    # Where the gain itself may be none, no share is excluded.
    *_, high = report.share_of_gain(one, [0.98, 0.999], [0.981, 0.9991])
    assert high == "9 or more"


def test_standing_verdicts_are_of_three_seeds_of_the_plain_network(tmp_path):
    for suffix in ("", "-2017"):
        write_runs(tmp_path, PLAIN + suffix, [0.99] * 5)
    assert [len(networks(tmp_path, rules)[0].metrics) for rules in ("", "-2017")] == [3, 3]
    every = report.read_all(tmp_path)
    assert [len(report.sets_of(every)[rules].metrics) for rules in report.SETS] == [3, 3, 0, 0, 0]
    both = report.improvements_of(every).values()
    assert [len(by_rules["none"].metrics) for by_rules in both] == [5, 5]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_picture_of_the_improvements_shows_all_runs(n, tmp_path, figures):
    for place, name in enumerate(report.IMPROVEMENTS.values()):
        for suffix in ("", "-2017"):
            write_set(tmp_path, suffix, [0.001 * place] * n, name)
    path = tmp_path / "improvements.png"
    every = report.read_all(tmp_path)
    assert report.plot_improvements(report.improvements_of(every), path) == path
    assert picture(tmp_path, path.name).shape == (900, 1200, 3)
    rows = np.reshape(figures[0].axes, (3, 5))
    titles = [axes.get_title() for axes in rows[0]]
    alone = "He initialization", "batch normalization", "dropout"
    assert titles == ["plain", *(f"+ {what}" for what in alone), "all three"]
    for place, (training, validation, test) in enumerate(rows.T):
        ends = [line.get_ydata()[-1] for line in training.lines]
        assert ends == pytest.approx([0.997 - 0.001 * place] * 2 * n)
        assert [line.get_ydata()[-1] for line in validation.lines] == [0.99] * 2 * n
        expected = (0.99 - np.arange(n) / 1000).tolist()
        assert [line.get_ydata().tolist() for line in test.lines] == [expected] * 2
        assert [list(line.get_xdata()) for line in test.lines] == [[0] * n, [1] * n]
        colors = [line.get_color() for line in training.lines]
        assert colors == ["C1"] * n + ["C0"] * n == [line.get_color() for line in validation.lines]
