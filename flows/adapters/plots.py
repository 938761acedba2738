"""Plots of a training as PNG files: ROC, calibration, importances. Drawn without a display and without global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE_INCHES = (5.0, 4.0)
DPI = 90
MAX_BARS = 20


def training_plots(
    folder: Path,
    *,
    title: str,
    auc: float,
    roc: tuple[Sequence[float], Sequence[float]],
    reliability: tuple[Sequence[float], Sequence[float]],
    importances: Mapping[str, float],
) -> None:
    """Write `roc.png`, `calibration.png` and `importances.png`.

    `roc` is (false, true positive rates), `reliability` (mean score, share of positives) by bin, `importances` AUC lost by feature.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = _figure()
    axes = figure.subplots()
    axes.plot(*roc)
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    axes.set(title=f"{title}: AUC {auc:.3f}", xlabel="false positive rate", ylabel="true positive rate")
    figure.savefig(folder / "roc.png", dpi=DPI)

    figure = _figure()
    axes = figure.subplots()
    axes.plot(*reliability, marker="o")
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    axes.set(title=f"{title}: calibration", xlabel="mean score", ylabel="share of positives", xlim=(0, 1), ylim=(0, 1))
    figure.savefig(folder / "calibration.png", dpi=DPI)

    figure = _figure()
    axes = figure.subplots()
    largest = sorted(importances, key=lambda name: (importances[name], name))[-MAX_BARS:]
    axes.barh(largest, [importances[name] for name in largest])
    axes.set(title=f"{title}: importances", xlabel="AUC lost when shuffled")
    figure.savefig(folder / "importances.png", dpi=DPI)


def _figure() -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="tight")
    FigureCanvasAgg(figure)
    return figure
