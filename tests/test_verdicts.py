"""The verdicts follow the README's criterion, for however many runs there are."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import verdicts
from post import PARAMETERS, TEST_ACCURACY
from test_plot import write_run

PLAIN, LARGE, SMALL = "deep_cnn", "deep_cnn_advanced", "deep_cnn_advanced_nin"
STEADY = [0.99] * 100
UNSTEADY = [0.99, 0.98] * 50


def write_runs(results, name, accuracies, curve=STEADY):
    for seed, accuracy in enumerate(accuracies):
        write_run(
            results / f"{name}-100epochs-seed{seed}",
            curve,
            curve,
            model=name,
            seed=seed,
            parameters=PARAMETERS[name][0],
            test_accuracy=accuracy,
            authors_test_accuracy=TEST_ACCURACY[name],
        )


def test_falls_are_counted_from_the_eleventh_epoch():
    curve = np.full(100, 0.99)
    curve[[8, 9, 10, 11, 99]] = 0.99, 0.98, 0.975, 0.97, 0.985
    assert verdicts.falls(curve) == 3  # epochs 11, 12 and 100, by 0.005 each
    curve[10] += 1 / 12_000  # one image less
    assert verdicts.falls(curve) == 2
    assert verdicts.falls(np.float32(UNSTEADY)) == 45


def test_spread_is_of_epochs_51_to_100(tmp_path):
    curve = [0.5] * 50 + [0.98, 0.99] * 25
    write_runs(tmp_path, LARGE, [0.994], curve)
    (spread,) = verdicts.Network(tmp_path, LARGE).spreads
    assert spread == pytest.approx(0.005 * (50 / 49) ** 0.5)


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ([0.9932, 0.9942, 0.9952], "**is reproduced**. Mean 0.9942 over 3 seeds"),
        ([0.9883, 0.9893, 0.9903], "**is reproduced**"),  # the end is 0.00497 above the mean
        ([0.9882, 0.9892, 0.9902], "**is not reproduced**"),
        ([0.9970, 0.9971, 0.9972], "**is not reproduced**"),
    ],
)
def test_reproduced_if_the_authors_accuracy_could_be_one_more_run(accuracies, verdict, tmp_path):
    write_runs(tmp_path, LARGE, accuracies)
    line = verdicts.reproduction(verdicts.Network(tmp_path, LARGE))
    assert verdict in line


def test_difference_by_hand(tmp_path):
    """Welch: n = 3 and 2, variances 1e-6 and 2e-6 about 0.994 and 0.990; 2.083 is df."""
    write_runs(tmp_path, LARGE, [0.993, 0.994, 0.995])
    write_runs(tmp_path, SMALL, [0.989, 0.991])
    networks = [verdicts.Network(tmp_path, name) for name in (LARGE, SMALL)]
    gap = verdicts.welch(*(network.accuracies for network in networks))
    a, b = 1e-6 / 3, 2e-6 / 2
    df = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)
    half = verdicts.stats.t.ppf(0.975, df) * (a + b) ** 0.5
    assert gap == pytest.approx([0.004, 0.004 - half, 0.004 + half])
    line = verdicts.difference(*networks)
    assert "**is not shown to be better**" in line  # by 0.0040 (-0.0006 to 0.0086)
    assert "**is not shown to be better**" in verdicts.difference(*reversed(networks))
    ratio = (110 * 90) ** 0.5 / (70 * 60 * 50) ** (1 / 3)
    assert f"makes {ratio:.2f} (" in line and "(the author's: 1.48)" in line


def test_better_and_more_stable_than_the_plain_network(tmp_path):
    write_runs(tmp_path, LARGE, [0.994, 0.9941, 0.9942])
    write_runs(tmp_path, PLAIN, [0.96, 0.961], UNSTEADY)
    text = verdicts.texts(tmp_path)[1]
    assert f"{LARGE} **is better** than {PLAIN}: by 0.0336 (" in text
    assert "**is more stable** by its falls, 0 to 0 against 45 to 45" in text
    assert "**is more stable** by its spread, 0.0000 to 0.0000 against 0.0051 to 0.0051" in text
    plain, large = (verdicts.Network(tmp_path, name) for name in (PLAIN, LARGE))
    assert f"{PLAIN} **is worse** than {LARGE}: by -0.0336 (" in verdicts.difference(plain, large)


@pytest.mark.parametrize(
    ("here", "there", "verdict"),
    [
        ([0, 1], [2, 3], "is more stable"),
        ([1], [2], "is more stable"),
        ([0, 2], [2, 3], "is not more stable"),
        ([0, 3], [2, 4], "is not more stable"),
        ([0, 0], [0, 3], "is not more stable"),
        ([0, 3], [0, 0], "is not more stable"),
        ([2, 3], [0, 1], "is less stable"),
    ],
)
def test_more_stable_if_each_run_has_less_of_it_than_each_of_the_other(here, there, verdict):
    one, other = (
        SimpleNamespace(name=name, falls=values, spreads=[value / 1000 for value in values])
        for name, values in ((LARGE, here), (PLAIN, there))
    )
    line = verdicts.stability(one, other)
    assert re.findall(r"\*\*(.*?)\*\*", line) == [verdict, verdict]


@pytest.mark.parametrize("seeds", [(0, 1, 1), (0, 2, 1), (1, 2, 2), (2, 3, 2), (3, 5, 5)])
def test_right_for_however_many_runs(seeds, tmp_path):
    names = dict(zip((PLAIN, LARGE, SMALL), seeds, strict=True))
    for name, n in names.items():
        write_runs(tmp_path, name, TEST_ACCURACY[name] - np.arange(n) / 1000)
    networks, verdict, runs = verdicts.texts(tmp_path)
    assert networks.count("\n") == 1 + sum(n > 0 for n in seeds)
    assert runs.count("\n") == 1 + sum(seeds)
    ready = [name for name in names if names[name] > 1]
    assert verdict.count("reproduced") == len(ready)
    pairs = sum(
        a in ready and b in ready for a, b in ((LARGE, SMALL), (LARGE, PLAIN), (SMALL, PLAIN))
    )
    assert verdict.count("better") == pairs
    waiting = [name for name in names if names[name] < 2]
    assert (f"No verdict on {', '.join(waiting)} yet" in verdict) == bool(waiting)
    for name, n in names.items():
        for seed in range(n):
            accuracy = TEST_ACCURACY[name] - seed / 1000
            wrong = round(10_000 * (1 - accuracy))
            assert f"| {name} | {seed} | {accuracy:.4f} | {wrong} | 0.9900 | 0 |" in runs
