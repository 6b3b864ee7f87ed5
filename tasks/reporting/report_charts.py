"""The report's charts, as SVG that stands inside the page and takes its colours from the page's style."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from tasks.quantities import percent
from tasks.reporting.report import IntervalReport, ScoreReport

WIDTH_INCHES, HEIGHT_INCHES = 4.4, 2.7

# The charts are drawn in stand-in colours that nothing else has; each becomes a colour of the page's style.
INK, MUTED, LINE, OWN, CONTROL, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
COLORS = tuple(f"#1{number}0000" for number in range(8))
"""Of things that stand beside each other, `--c0` to `--c7` in the style."""
STYLE = {
    INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", OWN: "var(--own)", CONTROL: "var(--control)",
    BAD: "var(--bad)", **{color: f"var(--c{number})" for number, color in enumerate(COLORS)},
}  # fmt: skip
DASHES = ("-", "--", ":")
"""When the colours are used up they come again, dashed."""
MOST_POINTS = 300
"""Of a curve; beyond that each is the mean of several."""
SMALL_INCHES = (3.1, 2.0)
LEFT_INCHES, RIGHT_INCHES, TOP_INCHES, BOTTOM_INCHES = 0.55, 0.2, 0.35, 0.45
"""Around the axes. A layout by what stands there would draw each chart twice: seconds of every run."""
SETTINGS = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A stage's loss. `before` and `after` are on the held-out batch; the rest is as logged while training.

    `warned` are the logged steps at which something was warned of.
    """

    steps: Sequence[float]
    losses: Sequence[float]
    before: float
    after: float
    last_step: int
    warned: Sequence[int] = ()


def loss_chart(name: str, curve: Curve) -> str:
    """The loss of stage `name` over its steps: a line while training, two points on the held-out batch."""
    with rc_context(_settings(f"loss {name}")):
        figure, axes = _panel(name)
        axes.plot(*thinned(curve.steps, curve.losses), color=CONTROL, linewidth=1.2)
        axes.plot([0, curve.last_step], [curve.before, curve.after], color=OWN, linewidth=1, linestyle=":", marker="o")
        for step, loss, side in ((0, curve.before, "left"), (curve.last_step, curve.after, "right")):
            axes.annotate(
                f"{loss:.3f}", (step, loss), (0, 7), textcoords="offset points", ha=side, color=OWN, fontweight="bold"
            )
        top = 1.15 * max([curve.before, curve.after, *curve.losses])
        axes.plot(curve.warned, [0.97 * top] * len(curve.warned), color=BAD, linestyle="", marker="v")
        axes.set_ylim(0, top)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("step")
        return _svg(figure, f"{name}: held-out loss {curve.before:.3f} before, {curve.after:.3f} after")


def small_chart(
    title: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit: str | None = None
) -> str:
    """Curves over the steps of a stage: name -> (steps, values). Which is which says the page, by `mark_of`.

    Args:
        unit: of values that are large: they have its prefix (k, M, G).
    """
    with rc_context(_settings(f"{title} {sorted(curves)}")):
        figure, axes = _panel(title, SMALL_INCHES)
        for number, (steps, values) in enumerate(curves.values()):
            color, dashes = COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]
            axes.plot(*thinned(steps, values), color=color, linestyle=dashes, linewidth=1.2)
        axes.set_ylim(bottom=0)
        if unit is None:
            axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        else:
            axes.yaxis.set_major_formatter(EngFormatter(unit))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        return _svg(figure, f"{title}, over the steps")


def mark_of(number: int) -> str:
    """The style of the mark that stands for the curve of this number in a `small_chart`."""
    dashes = ("solid", "dashed", "dotted")[number // len(COLORS) % len(DASHES)]
    return f"border-top: 3px {dashes} var(--c{number % len(COLORS)})"


def thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """At most `MOST_POINTS` points of a curve, each the mean of as many that follow each other."""
    each = -(-len(steps) // MOST_POINTS)
    if each <= 1:
        return steps, values
    groups = [slice(start, start + each) for start in range(0, len(steps), each)]
    return [fmean(steps[group]) for group in groups], [fmean(values[group]) for group in groups]


def score_chart(name: str, points: Mapping[str, ScoreReport]) -> str:
    """One metric at each point of the run, in percent with 95 % intervals, and that of its control."""
    with rc_context(_settings(f"score {name}")):
        figure, axes = _panel(name)
        own = dict(enumerate(points.values()))
        controls = {place: score["control"] for place, score in own.items() if score["control"] is not None}
        # A little apart, so that neither hides the other.
        _intervals(axes, {place + 0.06: score for place, score in controls.items()}, CONTROL, "s")
        _intervals(axes, {place - 0.06: score for place, score in own.items()}, OWN, "o")
        axes.set_xticks(list(own), list(points))
        axes.set_xlim(-0.4, len(own) - 0.6)
        axes.set_ylim(0, 105)
        axes.set_yticks([0, 25, 50, 75, 100], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        final = own[len(own) - 1]
        control = final["control"]
        label = f"{name}: {percent(final['value'])} at the end" + (
            f", control {percent(control['value'])}" if control else ""
        )
        return _svg(figure, label)


def _intervals(axes: Axes, scores: Mapping[float, IntervalReport], color: str, mark: str) -> None:
    """Scores by their place along the axis."""
    values = [100 * score["value"] for score in scores.values()]
    # An interval may miss its value by a rounding error, and a bar may not have a negative length.
    below = [max(0.0, 100 * (score["value"] - score["low"])) for score in scores.values()]
    above = [max(0.0, 100 * (score["high"] - score["value"])) for score in scores.values()]
    axes.errorbar(
        list(scores), values, yerr=[below, above], color=color, marker=mark, markersize=5, linewidth=1.4, capsize=3
    )


def _settings(salt: str) -> dict[Any, Any]:
    """`SETTINGS`; `salt` makes the ids inside a chart its own, the same each time."""
    return {**SETTINGS, "svg.hashsalt": salt}


def _panel(title: str, inches: tuple[float, float] = (WIDTH_INCHES, HEIGHT_INCHES)) -> tuple[Figure, Axes]:
    (width, height), figure = inches, Figure(figsize=inches)
    figure.patch.set_visible(False)
    inside = (width - LEFT_INCHES - RIGHT_INCHES, height - TOP_INCHES - BOTTOM_INCHES)
    axes = figure.add_axes((LEFT_INCHES / width, BOTTOM_INCHES / height, inside[0] / width, inside[1] / height))
    axes.patch.set_visible(False)
    # A name comes from the run, and a dollar sign in it is no formula.
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", parse_math=False)
    return figure, axes


def standing_alone(drawn: str) -> str:
    """A chart as a data URL, in colours that are seen on light and on dark."""
    colours = {
        "--ink": "#8a8f98",
        "--muted": "#8a8f98",
        "--line": "#8a8f9855",
        "--own": "#2f81f7",
        "--control": "#d29922",
    }
    for name, colour in colours.items():
        drawn = drawn.replace(f"var({name})", colour)
    whole = drawn.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="440" height="270" ', 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(whole.encode()).decode()}"


def _svg(figure: Figure, label: str) -> str:
    """`figure` as an <svg> element that scales with the page, with the same bytes each time."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r' id="[a-z]+_\d+"', "", drawn)  # of groups; nothing refers to them, and every chart has the same
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    for stand_in, color in STYLE.items():
        drawn = drawn.replace(stand_in, color)
    head = f'<svg role="img" aria-label="{escape(label)}" '
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")', lambda found: head + found[1], drawn, count=1)
