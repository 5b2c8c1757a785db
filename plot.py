"""Draw the accuracy of runs from their `history.csv` and `metrics.json`.

`python plot.py [RUN_DIR ...]` redraws `accuracy.png` in the named run directories, or in
all of `results/`.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

RESULTS = Path("results")


def main():
    """Redraw the plots of the runs that the command line names."""
    parser = argparse.ArgumentParser("plot.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "run_dirs",
        metavar="RUN_DIR",
        nargs="*",
        type=Path,
        help="a run directory (default: all finished runs of results/)",
    )
    run_dirs = parser.parse_args().run_dirs
    for run_dir in run_dirs or sorted(path.parent for path in RESULTS.glob("*/metrics.json")):
        try:
            plot_accuracy(run_dir)
        except (OSError, ValueError, KeyError) as error:
            sys.exit(f"plot.py: cannot draw the run in {run_dir}: {error}")
        print(run_dir / "accuracy.png")


def plot_accuracy(run_dir):
    """Draw `accuracy.png` in `run_dir`, 1200 x 500 pixels.

    On the left training and validation accuracy over the epochs, as the post draws them; on
    the right the same from 0.98 to 1.00 (or from lower, if the run ended lower). A thin line
    marks the test accuracy that the post reports.

    Args:
        run_dir: the `Path` of a directory with `history.csv` and `metrics.json`.

    Raises:
        OSError: a file of the run cannot be read, or the plot not be written.
        ValueError, KeyError: a file of the run is not what `train.py` writes.
    """
    metrics = json.loads((run_dir / "metrics.json").read_text())
    with open(run_dir / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in history]
    curves = {
        "training": [float(row["accuracy"]) for row in history],
        "validation": [float(row["val_accuracy"]) for row in history],
    }
    post = metrics["post_test_accuracy"]

    with matplotlib.style.context("default"):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        figure.suptitle(f"{metrics['model']}, seed {metrics['seed']}")
        for axes in figure.subplots(1, 2):
            for label, accuracy in curves.items():
                axes.plot(epochs, accuracy, label=label, marker="o" if len(epochs) == 1 else None)
            axes.axhline(
                post, color="gray", linewidth=0.8, label=f"test accuracy in the post: {post:.4f}"
            )
            axes.set_xlabel("epoch")
            axes.set_ylabel("accuracy")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        last = min(accuracy[-1] for accuracy in curves.values())
        axes.set_ylim(min(0.98, last - 0.01), 1)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.savefig(run_dir / "accuracy.png", dpi=100)


if __name__ == "__main__":
    main()
