"""The plots are real pictures of a run, drawn without TensorFlow."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from helpers import POSIX, PROJECT, long_run, picture, run, write_run
from matplotlib.colors import to_rgb

import plot
from data import load_mnist

TRAINING, VALIDATION = to_rgb("C0"), to_rgb("C1")
LEFT, RIGHT = np.s_[:430, :600], np.s_[:430, 600:]


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


def test_size_and_titles(tmp_path, figures):
    plot.plot_accuracy(long_run(tmp_path))
    assert picture(tmp_path).shape == (500, 1200, 3)
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["training and validation accuracy", "the same, enlarged"]


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
    accuracy, shown, title, tmp_path, figures
):
    run_dir = write_run(tmp_path, [0.9], [0.9], test_accuracy=accuracy)
    assert plot.plot_errors(run_dir) == run_dir / "errors.png"
    (figure,) = figures
    name, wrong = figure.get_suptitle().splitlines()
    assert name == "deep_cnn_advanced, 1 epoch, seed 0"
    assert wrong == f"{title} (label → prediction)"
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


def test_the_longest_title_of_errors_fits(tmp_path, figures):
    about = {"model": "deep_cnn_advanced_nin", "rules": "2017-epsilon"}
    plot.plot_errors(write_run(tmp_path, [0.9], [0.9], test_accuracy=0.1, **about))
    (figure,) = figures
    title, digits = figure._suptitle.get_window_extent(), figure.axes[0].texts[0]
    assert figure.bbox.x0 < title.x0 and title.x1 < figure.bbox.x1
    assert digits.get_window_extent().y1 < title.y0 and title.y1 < figure.bbox.y1


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


@pytest.mark.parametrize("argument", ["results/a", "results", None])
def test_command_redraws_the_run_it_is_given_or_the_only_one(argument, tmp_path, main):
    """Not the published ones, a directory deeper: they are not the user's."""
    for name in ("a", "published/c", "d.unfinished/results"):
        long_run(tmp_path / "results" / name)
    (tmp_path / "results/unfinished").mkdir()
    drawn = [str(Path("results/a", name)) for name in ("errors.png", "accuracy.png")]
    assert main(*([argument] if argument else [])) == (0, drawn)
    assert picture(tmp_path / "results/a").shape == (500, 1200, 3)
    assert len(list(tmp_path.rglob("*.png"))) == 2


@pytest.mark.parametrize("arguments", [("a", "b"), (".",), ("a", ".", "b")])
def test_command_compares_the_runs_it_is_given(arguments, tmp_path, main, figures):
    for seed, name in enumerate("ab"):
        write_run(tmp_path / name, [0.5, 0.7 + seed / 10], [0.6, 0.8], seed=seed)
    assert main(*arguments) == (0, ["comparison.png"])
    assert picture(tmp_path, "comparison.png").shape == (700, 1200, 3)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["comparison.png"]
    (figure,) = figures
    *runs, median = figure.axes[0].lines
    assert [line.get_ydata()[-1] for line in (*runs, median)] == pytest.approx([0.7, 0.8, 0.75])


def labels_of(figure):
    return [text.get_text() for text in figure.legends[0].texts]


def test_comparison_shows_runs_of_any_networks_seeds_and_epochs(tmp_path, figures):
    """In color what differs in its seed alone: one run, three of one network, one of one epoch."""
    one = {"model": "deep_cnn", "seed": 4, "test_accuracy": 0.98}
    run_dirs = [write_run(tmp_path / "one", [0.9, 1.0], [0.8, 0.9], **one)]
    for seed, accuracy in enumerate((0.93, 0.91, 0.99)):
        options = {"model": "mine", "seed": seed, "test_accuracy": accuracy - 0.02}
        curves = [accuracy] * 3, [accuracy - 0.01] * 3
        run_dirs.append(write_run(tmp_path / f"mine{seed}", *curves, **options))
    run_dirs.append(write_run(tmp_path / "short", [0.3], [0.2], model="mine", test_accuracy=0.25))
    assert plot.plot_comparison(run_dirs, tmp_path / "here.png") == tmp_path / "here.png"

    training, validation, test = figures[0].axes
    for axes, less in ((training, 0), (validation, 0.01)):
        lines = [line for line in axes.lines if to_rgb(line.get_color()) == to_rgb("C1")]
        *thin, median = lines
        assert [line.get_ydata()[0] + less for line in thin] == pytest.approx([0.93, 0.91, 0.99])
        assert median.get_ydata() == pytest.approx([0.93 - less] * 3)
        assert median.get_linewidth() >= 3 * thin[0].get_linewidth()
    assert "o" in {line.get_marker() for line in training.lines}  # a single epoch is a point
    assert [line.get_ydata().tolist() for line in test.lines] == [
        [0.98], pytest.approx([0.91, 0.89, 0.97]), [0.25]
    ]  # fmt: skip
    assert labels_of(figures[0]) == [
        "deep_cnn, 2 epochs, seed 4: test accuracy 0.9800",
        "mine, 3 epochs: test accuracy 0.9233 (mean of 3 seeds, whose median is thick)",
        "mine, 1 epoch, seed 0: test accuracy 0.2500",
    ]
    # A training accuracy of 1 lies within, and pulls the lower end nowhere.
    low, high = training.get_ylim()
    assert 0 <= low < 0.2 and 1 < high < 1.0005 and 1 in training.get_yticks()


def test_scale_is_logarithmic_in_the_errors_and_ends_without_a_bend():
    accuracies = np.array([0, 0.9, 0.99, 0.9995, 0.99975, 1, 1.0001])
    positions = plot.from_accuracy(accuracies)
    assert positions[:3] == pytest.approx([0, 1, 2])
    assert plot.to_accuracy(positions) == pytest.approx(accuracies, abs=1e-12)
    before, end, after = plot.from_accuracy(np.array([0.999499, 0.9995, 0.999501]))
    assert after - end == pytest.approx(end - before, rel=0.01)


@pytest.mark.parametrize(
    ("differs", "label"),
    [
        ({"network_sha256": "0123456789"}, "network 0123456"),
        ({"keras": "3.12.4"}, "Keras 3.12.4"),
        ({"tensorflow": "2.20.0"}, "TensorFlow 2.20.0"),
        ({"batch_size": 64}, "batch size 64"),
        ({"validation_split": 0.1}, "validation split 0.1"),
    ],
)
def test_no_mean_is_of_runs_that_differ_in_more_than_their_seeds(differs, label, tmp_path, figures):
    about = dict.fromkeys(plot.MADE_OF, "1") | {"test_accuracy": 0.9}
    run_dirs = []
    for seed in range(3):
        more = differs if seed == 2 else {}
        run_dirs.append(write_run(tmp_path / f"{seed}", [0.9], [0.9], seed=seed, **about | more))
    plot.plot_comparison(run_dirs, tmp_path / "comparison.png")
    (name,) = differs
    same, other = labels_of(figures[0])
    assert same.startswith(f"deep_cnn_advanced, 1 epoch ({plot.MADE_OF[name]} 1): test")
    assert "(mean of 2 seeds" in same
    assert other == f"deep_cnn_advanced, 1 epoch, seed 2 ({label}): test accuracy 0.9000"


def test_no_seed_counts_twice(tmp_path, figures):
    """As of a run that was moved away and trained anew."""
    names = "run-seed0", "run-seed0-before", "run-seed1"
    run_dirs = [write_run(tmp_path / name, [0.9], [0.9], seed=int("1" in name)) for name in names]
    plot.plot_comparison(run_dirs, tmp_path / "comparison.png")
    both, before = labels_of(figures[0])
    assert both.startswith("deep_cnn_advanced, 1 epoch: ") and "mean of 2 seeds" in both
    assert before.startswith("deep_cnn_advanced, 1 epoch, seed 0 (run-seed0-before): ")


def test_comparison_tells_runs_of_one_name_apart(tmp_path, figures):
    """As of an edited network, trained into another directory."""
    run_dirs = [long_run(tmp_path / name / "run") for name in ("results", "other")]
    plot.plot_comparison(run_dirs, tmp_path / "comparison.png")
    assert [label.split(": test")[0] for label in labels_of(figures[0])] == [
        f"deep_cnn_advanced, 100 epochs, seed 0 ({tmp_path / name})"
        for name in ("results", "other")
    ]


def test_many_networks_are_told_apart_and_leave_the_axes_their_height(tmp_path, figures):
    run_dirs = [write_run(tmp_path / f"{i}", [0.9], [0.9], model=f"cnn{i}") for i in range(30)]
    plot.plot_comparison(run_dirs, tmp_path / "comparison.png")
    (figure,) = figures
    training, _, test = figure.axes
    looks = {(line.get_color(), line.get_linestyle()) for line in training.lines}
    assert len(looks) == len({(line.get_color(), line.get_marker()) for line in test.lines}) == 30
    assert training.get_window_extent().height > 400
    assert figure.legends[0].get_window_extent().y1 < training.get_window_extent().y0


@pytest.mark.parametrize("name", ["_mine", "$a_1$", "$\\frac$", "합성곱"])
def test_any_name_is_drawn_as_it_is(name, tmp_path, figures, capsys, monkeypatch):
    """Also where no font has its letters: then that is told in one line, once."""
    monkeypatch.setattr(plot, "KOREAN_FONTS", ())
    plot.tell_once.cache_clear()
    run_dir = write_run(tmp_path, [0.9], [0.9], model=name)
    for _ in range(2):
        plot.plot_accuracy(run_dir)
        plot.plot_errors(run_dir)
        plot.plot_comparison([run_dir], tmp_path / "comparison.png")
    accuracy, errors, comparison, *_ = figures
    for title in (accuracy.get_suptitle(), errors.get_suptitle(), *labels_of(comparison)):
        assert title.startswith(f"{name}, 1 epoch, seed 0")
    assert not any(text.get_parse_math() for text in comparison.legends[0].texts)
    told = "no font here has the letters of this name; install NanumGothic, for one\n"
    assert capsys.readouterr() == (told if name == "합성곱" else "", "")


def test_a_font_that_has_the_letters_is_taken(tmp_path, figures, monkeypatch):
    """The user's own before a Korean one, and either only where Matplotlib's has none."""
    installed = ["DejaVu Sans", "DejaVu Serif", "NanumGothic"]
    monkeypatch.setattr("matplotlib.font_manager.get_font_names", lambda: installed)
    monkeypatch.setitem(matplotlib.rcParams, "font.family", ["DejaVu Serif", "Gulim"])
    with plot.style():
        assert matplotlib.rcParams["font.family"] == installed


@pytest.mark.parametrize("name", [None, "results", "results/empty"])
def test_command_tells_in_one_line_where_no_run_is(name, tmp_path, main):
    if name:
        (tmp_path / name).mkdir(parents=True)
    arguments = [name] if name else []
    line = f"plot.py: there is no finished run in {Path(name or 'results')}"
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
    "metrics of nothing": (("metrics.json", lambda text: "{}"), "test_images"),
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


@pytest.mark.skipif(not POSIX, reason="Windows has no /dev/full, and tells other reasons")
@pytest.mark.parametrize("end", ["full disk", "closed pipe"])
def test_command_that_cannot_print_ends_with_one_line(end, tmp_path):
    long_run(tmp_path)
    if end == "full disk":
        output, number = os.open("/dev/full", os.O_WRONLY), errno.ENOSPC
    else:
        (closed, output), number = os.pipe(), errno.EPIPE
        os.close(closed)
    line = f"plot.py: stopped by [Errno {number}] {os.strerror(number)}\n"
    assert run("plot.py", tmp_path, stdout=output)[::2] == (1, line)
    os.close(output)
