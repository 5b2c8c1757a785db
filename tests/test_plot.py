"""The plots are real pictures of a run, drawn without TensorFlow."""

import json
import os
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from post import PARAMETERS
from runs import PROJECT, run

import plot

TRAINING, VALIDATION = to_rgb("C0"), to_rgb("C1")
LEFT, RIGHT = np.s_[:430, :600], np.s_[:430, 600:]


def write_run(run_dir, accuracy, val_accuracy, **more_metrics):
    run_dir.mkdir(parents=True, exist_ok=True)
    metrics = {
        "model": "deep_cnn_advanced",
        "seed": 0,
        "epochs": len(accuracy),
        "post_test_accuracy": 0.9942,
    } | more_metrics
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


def black(panel):
    return (panel < 0.3).all(axis=-1)


def frame(panel):
    """Return the pixels of the axes' frame: left, right, top, bottom."""
    columns = np.nonzero(black(panel).mean(axis=0) > 0.7)[0]
    rows = np.nonzero(black(panel).mean(axis=1) > 0.7)[0]
    return columns[0], columns[-1], rows[0], rows[-1]


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


@pytest.mark.parametrize(("panel", "bottom"), [(LEFT, None), (RIGHT, 0.98)])
def test_posts_accuracy_is_a_line_through_both_panels(panel, bottom, image, tmp_path):
    """The rows of pixels that change with the post's accuracy: the line, and its legend below."""
    run_dir = long_run(tmp_path)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    lines = []
    for accuracy in (0.9942, 0.9842):
        (run_dir / "metrics.json").write_text(
            json.dumps(metrics | {"post_test_accuracy": accuracy})
        )
        plot.plot_accuracy(run_dir)
        lines.append(picture(run_dir))
    changed = np.abs(lines[0] - lines[1])[panel].max(axis=-1) > 0.1
    rows = np.nonzero(changed.mean(axis=1) > 0.6)[0]
    *_, top, end = frame(image[panel])
    assert rows.min() > top and rows.max() < end
    if bottom:
        found = 1 - (1 - bottom) * (rows - top) / (end - top)
        assert (found.max(), found.min()) == pytest.approx((0.9942, 0.9842), abs=0.0003)


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


# The comparison of the post's two runs


def write_published(results, post):
    """Write runs whose validation accuracy ends at 0.993 and 0.989, like the test accuracy."""
    epochs = np.arange(1, 101)
    for name, (parameters, _, _), end in zip(
        plot.POST_RUNS, PARAMETERS.values(), (0.993, 0.989), strict=True
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


@pytest.fixture
def main(tmp_path, monkeypatch, capsys):
    """Return a function that calls plot.main in `tmp_path`: exit code or line, standard output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = 0
        try:
            plot.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().out.splitlines()

    return run


def test_command_redraws_the_runs_it_is_given(tmp_path, main):
    run_dirs = [long_run(tmp_path / name) for name in "ab"]
    assert main(*run_dirs) == (0, [str(run_dir / "accuracy.png") for run_dir in run_dirs])
    for run_dir in run_dirs:
        assert picture(run_dir).shape == (500, 1200, 3)


def test_command_redraws_the_finished_runs_of_results_by_default(tmp_path, main):
    """Not the published ones, a directory deeper: they are not the user's."""
    for name in ("a", "b", "published/c", "d.unfinished/results"):
        long_run(tmp_path / "results" / name)
    (tmp_path / "results/unfinished").mkdir()
    assert main() == (0, ["results/a/accuracy.png", "results/b/accuracy.png"])
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_command_draws_the_comparison_where_the_posts_two_runs_are(tmp_path, main):
    write_published(tmp_path / "published", post=0.99)
    pictures = [f"published/{name}/accuracy.png" for name in plot.POST_RUNS]
    assert main("published") == (0, [*pictures, "published/comparison.png"])
    assert picture(tmp_path / "published", "comparison.png").shape == (500, 1200, 3)

    assert main(tmp_path / "published" / plot.POST_RUNS[0])[0] == 0
    (tmp_path / "published/comparison.png").unlink()
    (tmp_path / "published" / plot.POST_RUNS[1] / "metrics.json").unlink()
    assert main("published") == (0, pictures[:1])
    assert not (tmp_path / "published/comparison.png").exists()


@pytest.mark.parametrize("name", [None, "results", "results/empty"])
def test_command_tells_in_one_line_where_no_run_is(name, tmp_path, main):
    if name:
        (tmp_path / name).mkdir(parents=True)
    arguments = [name] if name else []
    line = f"plot.py: there is no finished run in {name or 'results'}"
    assert main(*arguments) == (line, [])


DAMAGES = {
    "no history": (("history.csv", None), "No such file"),
    "empty history": (("history.csv", lambda text: ""), "history.csv is not whole: 0 lines"),
    "history of a header": (("history.csv", lambda text: text.split()[0]), "not whole: 0 lines"),
    "history cut after a line": (
        ("history.csv", lambda text: "\n".join(text.split()[:51]) + "\n"),
        "history.csv is not whole: 50 lines, 100 epochs",
    ),
    "history cut in a line": (("history.csv", lambda text: text[:2000]), "not whole"),
    "history cut in the last number": (("history.csv", lambda text: text[:-2]), "not whole"),
    "history of too few columns": (
        ("history.csv", lambda text: text.replace(",0.1,1.0\n", "\n")), ""
    ),
    "history of other names": (("history.csv", lambda text: text.replace("acc", "x")), "accuracy"),
    "history of words": (("history.csv", lambda text: text.replace("0.1", "high")), "high"),
    "empty metrics": (("metrics.json", lambda text: ""), ""),
    "metrics of a list": (("metrics.json", lambda text: "[]"), ""),
    "metrics of nothing": (("metrics.json", lambda text: "{}"), "epochs"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_command_tells_what_is_no_run_in_one_line(case, tmp_path, main):
    (name, damage), part = DAMAGES[case]
    path = long_run(tmp_path / "run") / name
    if damage:
        path.write_text(damage(path.read_text()))
    else:
        path.unlink()
    line, output = main("run")
    assert output == []
    assert line.startswith("plot.py: cannot draw the results in run: ") and "\n" not in line
    assert part in line
    assert not (tmp_path / "run/accuracy.png").exists()


@pytest.mark.parametrize("end", ["full disk", "closed pipe"])
def test_command_that_cannot_print_ends_with_one_line(end, tmp_path):
    long_run(tmp_path)
    if end == "full disk":
        output, reason = os.open("/dev/full", os.O_WRONLY), "No space left on device"
    else:
        (closed, output), reason = os.pipe(), "Broken pipe"
        os.close(closed)
    assert run("plot.py", tmp_path, stdout=output)[::2] == (1, f"plot.py: cannot print: {reason}\n")
    os.close(output)


def test_no_tensorflow():
    modules = "import sys, plot; print({'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", modules], cwd=PROJECT, capture_output=True)
    assert done.stdout == b"set()\n"
