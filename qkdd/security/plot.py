"""Draws charts of secret rate; alone in this room to write a file. matplotlib (extra `plots`) is imported when used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qkdd.security.errors import PlotsAbsent, ProofInputError
from qkdd.security.keyrate import Chart


def draw(charts: Sequence[Chart], path: Path) -> None:
    """Write the charts side by side, rates on a logarithmic axis, into one picture; the name's ending chooses the format.

    A mode's label ("not a strict bound") is drawn into its chart. Raises PlotsAbsent without matplotlib, ProofInputError for
    nothing to draw or an ending that matplotlib does not know, OSError if the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotsAbsent(f"matplotlib cannot be imported: {error}") from None
    if not charts:
        raise ProofInputError("there is no chart to draw", name="charts")
    figure = Figure(figsize=(6.4 * len(charts), 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ending = path.suffix.lstrip(".").lower()
    if ending not in canvas.get_supported_filetypes():
        raise ProofInputError(f"{path.name}: the ending names no picture format", name="plot")
    for number, chart in enumerate(charts, start=1):
        axes = figure.add_subplot(1, len(charts), number)
        for curve in chart.curves:
            if curve.points:
                axes.semilogy(*zip(*curve.points, strict=True), label=curve.label)
        subtitle = f"{chart.mode} — {chart.note}" if chart.note else chart.mode
        axes.set_title(f"{chart.title}\n{subtitle}", fontsize="medium")
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        axes.grid(visible=True, which="major", alpha=0.3)
        if any(curve.points for curve in chart.curves):
            axes.legend(fontsize="small")
    canvas.print_figure(path, format=ending, dpi=100)
