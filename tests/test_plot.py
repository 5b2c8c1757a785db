"""The plots are real pictures of a run, drawn without TensorFlow."""

import json
import os
import shutil
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from helpers import PROJECT, run
from matplotlib.colors import to_rgb, to_rgba
from post import TEST_ACCURACY

import plot
from data import load_mnist

TRAINING, VALIDATION = to_rgb("C0"), to_rgb("C1")
LEFT, RIGHT = np.s_[:430, :600], np.s_[:430, 600:]


def write_run(run_dir, accuracy, val_accuracy, **more_metrics):
    run_dir.mkdir(parents=True, exist_ok=True)
    metrics = {
        "model": "deep_cnn_advanced",
        "seed": 0,
        "epochs": len(accuracy),
        "test_images": 10_000,
        "test_accuracy": 0.9995,
        "authors_test_accuracy": 0.9942,
    } | more_metrics
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    wrong = round(10_000 * (1 - metrics["test_accuracy"]))
    rows = [f"{image},7,{2 if image < wrong else 7}" for image in range(10_000)]
    (run_dir / "predictions.csv").write_text("\n".join(["image,label,prediction", *rows]) + "\n")
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
            json.dumps(metrics | {"authors_test_accuracy": accuracy})
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


def test_a_notebooks_backend_that_is_not_installed_changes_nothing(image, tmp_path):
    """As of `!python plot.py` in a notebook of another environment."""
    run_dir = long_run(tmp_path)
    env = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    code, _, errors = run("plot.py", run_dir, env=env)
    assert (code, errors) == (0, "")
    assert np.array_equal(picture(run_dir), image)


# The digits that a run got wrong


@pytest.mark.parametrize(
    ("accuracy", "shown", "title"),
    [
        (1, 0, "0 test images wrong of 10,000"),
        (0.999, 10, "10 test images wrong of 10,000"),
        (0.9977, 23, "23 test images wrong of 10,000"),
        (0.1, 100, "the first 100 of 9000 test images wrong of 10,000"),
    ],
)
def test_errors_show_the_images_with_label_and_prediction(
    accuracy, shown, title, tmp_path, monkeypatch
):
    figures = drawn_figures(monkeypatch)
    run_dir = write_run(tmp_path, [0.9], [0.9], test_accuracy=accuracy)
    assert plot.plot_errors(run_dir) == run_dir / "errors.png"
    (figure,) = figures
    assert title in figure.get_suptitle() and "deep_cnn_advanced, seed 0" in figure.get_suptitle()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts[::2]] == ["7 → 2"] * shown
    assert [text.get_text() for text in axes.texts[1::2]] == [str(i) for i in range(shown)]

    # Each image stands between its two texts, and nothing else is there.
    sheet = axes.images[0].get_array()
    _, (images, _) = load_mnist()
    assert sheet.sum() == images[:shown].sum(dtype=int)
    for above, below in zip(axes.texts[::2], axes.texts[1::2], strict=True):
        x, top = above.get_position()
        y = top + 2
        place = np.s_[y : y + 28, x - 14 : x + 14]
        assert np.array_equal(sheet[place], images[int(below.get_text()), :, :, 0])
    assert picture(run_dir, "errors.png").shape[1] == 1000


def drawn_figures(monkeypatch):
    """Return a list that will hold the figures that are drawn."""
    figures = []
    savefig = plot.Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(plot.Figure, "savefig", keep)
    return figures


# The comparison of many runs


def write_published(results, seeds, collapse=False):
    """Write runs of constant accuracies; return them: validation and test, by network."""
    written = {}
    for network, (name, n) in enumerate(zip(plot.NETWORKS, seeds, strict=True)):
        written[name] = []
        for seed in range(n):
            validation = 0.1 if collapse and network == 0 else 0.98 + 0.005 * network - seed / 1000
            test = validation + 0.002
            write_run(
                results / f"{name}-100epochs-seed{seed}",
                [0.999] * 100,
                [validation] * 100,
                model=name,
                seed=seed,
                test_accuracy=test,
                authors_test_accuracy=TEST_ACCURACY[name],
            )
            written[name].append((validation, test))
    return written


@pytest.mark.parametrize(
    ("seeds", "collapse"),
    [((0, 1, 1), False), ((1, 2, 1), False), ((3, 5, 5), True), ((3, 12, 5), False)],
)
def test_comparison_shows_all_runs_their_medians_and_the_posts(
    seeds, collapse, tmp_path, monkeypatch
):
    figures = drawn_figures(monkeypatch)
    written = write_published(tmp_path, seeds, collapse)
    assert plot.plot_comparison(tmp_path) == tmp_path / "comparison.png"
    assert picture(tmp_path, "comparison.png").shape == (900, 1200, 3)
    *panels, last = figures[0].axes
    bottom, top = last.get_ylim()
    seen = []
    for place, (name, runs) in enumerate(written.items()):
        axes = panels[place]
        assert axes.get_title() == f"{name}: validation accuracy"
        if not runs:
            assert [text.get_text() for text in axes.texts] == ["not trained yet"]
            continue
        *thin, median, post = axes.lines
        validation = [run[0] for run in runs]
        assert [line.get_ydata()[0] for line in thin] == validation
        assert set(median.get_ydata()) == {np.median(validation)}
        assert median.get_linewidth() >= 3 * max(line.get_linewidth() for line in thin)
        assert {to_rgba(line.get_color()) for line in (*thin, median)} == {to_rgba(f"C{place}")}
        assert to_rgba(post.get_color()) == to_rgba("black")
        curve = plot.posts_curve(name)
        assert np.array_equal(post.get_xydata().T, curve, equal_nan=True)
        assert len(curve[0]) == (0 if name == "deep_cnn" else 75)
        seen += [*validation, *np.array(curve[1])[~np.isnan(curve[1])]]

    for place, (name, runs) in enumerate(written.items()):
        tests = [run[1] for run in runs]
        points = [line.get_xydata() for line in last.lines]
        points = [(x, y) for line in points for x, y in line if abs(x - place) < 0.5]
        expected = [(place - 0.3 + 0.04 * seed, test) for seed, test in enumerate(tests)]
        expected += [(place + 0.2, TEST_ACCURACY[name])] * len(tests)
        seen += [y for _, y in expected]
        if len(tests) > 1:  # mean and ends of the interval
            expected += [(place, value) for value in plot.prediction_interval(tests)]
        assert sorted(np.round(points, 9).tolist()) == sorted(np.round(expected, 9).tolist())
    assert bottom < min(seen) and max(seen) < top
    assert (0.1 in last.get_yticks()) == collapse
    assert 0.99 in last.get_yticks() and {ax.get_ylim() for ax in panels} == {(bottom, top)}


def test_prediction_interval_is_that_of_the_criterion():
    """By hand: mean 0.992, sd 0.001, t(2) = 4.302653, n = 3."""
    mean, low, high = plot.prediction_interval([0.991, 0.992, 0.993])
    half = 4.302653 * 0.001 * (4 / 3) ** 0.5
    assert (mean, low, high) == pytest.approx((0.992, 0.992 - half, 0.992 + half))


def test_seeds_are_in_the_order_of_numbers(tmp_path):
    for seed in (10, 9, 1):
        long_run(tmp_path / f"deep_cnn-100epochs-seed{seed}")
    long_run(tmp_path / "deep_cnn-99epochs-seed0")
    (tmp_path / "deep_cnn-100epochs-seed2.unfinished").mkdir()
    found = [path.name for path in plot.run_dirs_of(tmp_path, "deep_cnn")]
    assert found == [f"deep_cnn-100epochs-seed{seed}" for seed in (1, 9, 10)]


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


def pictures(run_dir):
    return run_dir / "errors.png", run_dir / "accuracy.png"


def test_command_redraws_the_runs_it_is_given(tmp_path, main):
    run_dirs = [long_run(tmp_path / name) for name in "ab"]
    assert main(*run_dirs) == (0, [str(path) for run_dir in run_dirs for path in pictures(run_dir)])
    for run_dir in run_dirs:
        assert picture(run_dir).shape == (500, 1200, 3)


def test_command_redraws_the_finished_runs_of_results_by_default(tmp_path, main):
    """Not the published ones, a directory deeper: they are not the user's."""
    for name in ("a", "b", "published/c", "d.unfinished/results"):
        long_run(tmp_path / "results" / name)
    (tmp_path / "results/unfinished").mkdir()
    names = ["a/errors.png", "a/accuracy.png", "b/errors.png", "b/accuracy.png"]
    assert main() == (0, [f"results/{name}" for name in names])
    assert len(list(tmp_path.rglob("*.png"))) == 4


def test_command_draws_the_comparison_where_the_posts_two_networks_are(tmp_path, main):
    results = tmp_path / "published"
    written = write_published(results, (0, 1, 1))
    run_dirs = [f"published/{name}-100epochs-seed0" for name, runs in written.items() if runs]
    drawn = [f"{run_dir}/{name}.png" for run_dir in run_dirs for name in ("errors", "accuracy")]
    assert main("published") == (0, [*drawn, "published/comparison.png"])
    assert main(run_dirs[1]) == (0, drawn[2:])

    (results / "comparison.png").unlink()
    shutil.rmtree(tmp_path / run_dirs[0])
    assert main("published") == (0, drawn[2:])
    assert not (results / "comparison.png").exists()


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
        "history.csv is not whole: 50 lines instead of 100",
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
    "no predictions": (("predictions.csv", None), "No such file"),
    "predictions cut after a line": (
        ("predictions.csv", lambda text: "\n".join(text.split()[:-1]) + "\n"),
        "predictions.csv is not whole: 9999 lines instead of 10000",
    ),
    "predictions cut in a line": (("predictions.csv", lambda text: text[:-1]), "not whole"),
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
    assert set(output) == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
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
