"""The plots are real pictures of a run, drawn without TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from post import PARAMETERS
from runs import PROJECT

import plot

TRAINING, VALIDATION = to_rgb("C0"), to_rgb("C1")
LEFT, RIGHT = np.s_[:430, :600], np.s_[:430, 600:]


def write_run(run_dir, accuracy, val_accuracy, **more_metrics):
    run_dir.mkdir(parents=True, exist_ok=True)
    metrics = {"model": "deep_cnn_advanced", "seed": 0, "post_test_accuracy": 0.9942}
    metrics.update(more_metrics)
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    rows = [
        f"{epoch},{a},0.1,{v},0.1,1.0"
        for epoch, (a, v) in enumerate(zip(accuracy, val_accuracy, strict=True), start=1)
    ]
    header = "epoch,accuracy,loss,val_accuracy,val_loss,seconds"
    (run_dir / "history.csv").write_text("\n".join([header, *rows]) + "\n")
    return run_dir


def long_run(run_dir):
    epochs = np.arange(1, 101)
    return write_run(run_dir, 0.999 - 0.1 / epochs, 0.993 - 0.03 / epochs)


def picture(directory, name="accuracy.png"):
    """Return the plot as an array (height, width, 3) of colors from 0 to 1."""
    assert (directory / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(directory / name)[..., :3]


def rows_of(image, color):
    """Return the heights, in pixels from the top, at which `color` is found."""
    return np.nonzero(np.abs(image - color).max(axis=-1) < 0.02)[0]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    run_dir = long_run(tmp_path_factory.mktemp("plot"))
    plot.plot_accuracy(run_dir)
    return picture(run_dir)


def test_size(image):
    assert image.shape == (500, 1200, 3)


@pytest.mark.parametrize("panel", [LEFT, RIGHT])
@pytest.mark.parametrize("color", [TRAINING, VALIDATION])
def test_both_curves_in_both_panels(image, panel, color):
    assert len(rows_of(image[panel], color)) > 200


def test_right_panel_zooms_in(image):
    """Accuracy at the end: 0.998 and 0.993, 25 % of the height of 0.98 to 1.00 apart."""

    def distance(panel):
        last = image[panel][:, 300:]
        return np.median(rows_of(last, VALIDATION)) - np.median(rows_of(last, TRAINING))

    assert distance(RIGHT) > 80 > 25 > distance(LEFT) > 5


def test_posts_accuracy_is_a_line_through_both_panels(image):
    for panel in (LEFT, RIGHT):
        gray = (
            np.abs(image[panel] - np.ptp(image[panel], axis=-1, keepdims=True)).max(axis=-1) < 0.8
        )
        assert (gray.sum(axis=1) > 300).any()


@pytest.mark.parametrize("accuracy", [0.93, 0.985])
def test_a_single_epoch_shows_its_points(tmp_path, accuracy):
    run_dir = write_run(tmp_path, [accuracy], [accuracy + 0.01])
    plot.plot_accuracy(run_dir)
    for panel in (LEFT, RIGHT):
        for color in (TRAINING, VALIDATION):
            assert len(rows_of(picture(run_dir)[panel], color)) >= 20


def test_a_users_matplotlibrc_changes_nothing(image, tmp_path):
    run_dir = long_run(tmp_path)
    (tmp_path / "matplotlibrc").write_text(
        "savefig.bbox: tight\nfigure.facecolor: black\nlines.linewidth: 9\nbackend: QtAgg\n"
    )
    subprocess.run([sys.executable, PROJECT / "plot.py", run_dir], check=True, cwd=tmp_path)
    assert np.array_equal(picture(run_dir), image)


# The comparison of the published runs


def write_published(results, post):
    """Write runs whose validation accuracy ends at 0.993 and 0.989, like the test accuracy."""
    epochs = np.arange(1, 101)
    for name, (parameters, _, _), end in zip(
        plot.PUBLISHED, PARAMETERS.values(), (0.993, 0.989), strict=True
    ):
        write_run(
            results / name,
            0.999 - 0.1 / epochs,
            end - 0.01 / epochs,
            parameters=parameters,
            test_accuracy=end,
            post_test_accuracy=post,
        )


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    results = tmp_path_factory.mktemp("comparison")
    write_published(results, post=0.983)
    assert plot.plot_comparison(results) == results / "comparison.png"
    return picture(results, "comparison.png")


def black(panel):
    return (panel < 0.3).all(axis=-1)


def frame(panel):
    """Return the pixels of the axes' frame: left, right, top, bottom."""
    columns = np.nonzero(black(panel).mean(axis=0) > 0.7)[0]
    rows = np.nonzero(black(panel).mean(axis=1) > 0.7)[0]
    return columns[0], columns[-1], rows[0], rows[-1]


def accuracy_at(panel, row):
    _, _, top, bottom = frame(panel)
    return 1 - 0.02 * (row - top) / (bottom - top)


def test_comparison_has_both_validation_curves(comparison):
    panel = comparison[:, :600]
    assert panel.shape[:2] == (500, 600)
    for color, end in ((TRAINING, 0.993), (VALIDATION, 0.989)):  # the first color, the second
        last = np.median(rows_of(panel[:380, 400:], color))
        assert accuracy_at(panel, last) == pytest.approx(end, abs=0.0003)


@pytest.mark.parametrize(("parameters", "accuracy"), [(137_510, 0.993), (87_135, 0.989)])
def test_comparison_has_test_accuracies_with_intervals_and_the_posts(
    comparison, parameters, accuracy
):
    panel = comparison[:, 600:]
    left, right, *_ = frame(panel)
    column = round(left + (right - left) * parameters / 200_000)
    rows = np.nonzero(black(panel)[:, column - 1 : column + 2].any(axis=1))[0]
    found = accuracy_at(panel, rows)
    here = found[(found > 0.985) & (found < 0.997)]
    assert (here.min(), here.max()) == pytest.approx(plot.interval(accuracy), abs=0.0003)
    post = found[(found > 0.981) & (found < 0.985)]
    assert (post.min() + post.max()) / 2 == pytest.approx(0.983, abs=0.0002)


@pytest.mark.parametrize("accuracy", [0.9942, 0.9914, 0.5])
def test_interval_is_wilsons(accuracy):
    """Its ends are the true accuracies from which this one is 1.96 standard deviations off."""
    low, high = plot.interval(accuracy)
    assert low < accuracy < high
    for true in (low, high):
        deviation = (true * (1 - true) / 10_000) ** 0.5
        assert abs(accuracy - true) / deviation == pytest.approx(1.959964)


# The command line


def run_plot(*arguments, cwd=PROJECT):
    command = [sys.executable, PROJECT / "plot.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_command_redraws_the_runs_it_is_given(tmp_path):
    run_dirs = [long_run(tmp_path / name) for name in "ab"]
    done = run_plot(*run_dirs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(run_dir / "accuracy.png") for run_dir in run_dirs]
    for run_dir in run_dirs:
        assert picture(run_dir).shape == (500, 1200, 3)


def test_command_redraws_all_finished_runs_by_default(tmp_path):
    run_dirs = [long_run(tmp_path / "results" / name) for name in "ab"]
    (tmp_path / "results/unfinished").mkdir()
    done = run_plot(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for run_dir in run_dirs:
        assert picture(run_dir).shape == (500, 1200, 3)


def test_command_draws_the_comparison_by_default_once_both_runs_are_there(tmp_path):
    write_published(tmp_path / "results", post=0.99)
    assert str(Path("results/comparison.png")) in run_plot(cwd=tmp_path).stdout
    comparison = tmp_path / "results/comparison.png"
    assert matplotlib.image.imread(comparison).shape[:2] == (500, 1200)

    comparison.unlink()
    run_plot(tmp_path / "results" / plot.PUBLISHED[0], cwd=tmp_path)
    (tmp_path / "results" / plot.PUBLISHED[1] / "metrics.json").unlink()
    done = run_plot(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not comparison.exists()


def test_command_tells_what_is_no_run_in_one_line(tmp_path):
    done = run_plot(tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert str(tmp_path) in done.stderr


def test_no_tensorflow():
    modules = "import sys, plot; print({'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", modules], cwd=PROJECT, capture_output=True)
    assert done.stdout == b"set()\n"
