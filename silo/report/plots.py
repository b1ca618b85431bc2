"""The two plots, as SVG to be put inside the page.

Invariants: the same report gives the same bytes (fixed hash salt, no date, no random ids, matplotlib's own defaults
whatever the user has configured); colours are the page's CSS variables, so that light, dark and print need no
second copy; nothing is told by colour alone (line style and marker differ too). Only party names, which are
[a-z0-9-], are drawn: no stranger's string enters the SVG. Matplotlib is imported when a plot is drawn.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from silo.report import text
from silo.report.model import Report
from silo.report.sections.utility import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_WIDTH = 420  # SVG units, which are CSS pixels at the figure's natural size: 12.5-unit text stays readable on a phone
_FONT = 12.5
# Matplotlib needs real colours; these stand for CSS variables and are replaced in the output.
_INK, _MUTED, _LINE, _BAD = "#000001", "#000002", "#000003", "#000004"
_SERIES = tuple(f"#0000{code:02x}" for code in range(16, 24))
_VARIABLES = {_INK: "var(--ink)", _MUTED: "var(--muted)", _LINE: "var(--line)", _BAD: "var(--bad)"} | {
    colour: f"var(--s{position})" for position, colour in enumerate(_SERIES, 1)
}
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 1)))
_MARKERS = "osD^vPX*"


def draw(report: Report, name: str, title: str, description: str) -> str:
    """The plot `name` ("auc" or "privacy") as an `<svg>` element with its title and description inside."""
    return _svg(report, {"auc": _auc, "privacy": _privacy}[name], name, title, description)


def _auc(report: Report, figure: Figure) -> None:
    from matplotlib.ticker import MaxNLocator

    auc = report.auc
    three = [
        (label, value, band, colour, marker)
        for label, value, band, colour, marker in zip(
            NAMES,
            (auc.pooled, auc.federated, auc.silo_only),
            (auc.pooled_interval, auc.federated_interval, auc.silo_only_interval),
            (_SERIES[1], _SERIES[0], _SERIES[2]),
            "sD^",
            strict=True,
        )
        if value is not None
    ]
    course = [(step.round, step.auc) for step in report.rounds if step.auc is not None]
    height = 44 + 30 * len(three) + (225 if len(course) > 1 else 0)
    _resize(figure, height)
    top = _axes(figure, 140, 8, _WIDTH - 140 - 16, 30 * len(three))
    for position, (_, value, band, colour, marker) in enumerate(three):
        if band is not None:
            top.plot([band.low, band.high], [position, position], color=colour, lw=2.5, solid_capstyle="butt")
        top.plot([value], [position], marker, color=colour, ms=8)
    top.set_yticks(range(len(three)), [f"{label.split(',')[0]}  {text.score(value)}" for label, value, *_ in three])
    top.set_ylim(len(three) - 0.4, -0.6)
    top.tick_params(axis="y", labelcolor=_INK, length=0)
    top.grid(axis="x", color=_LINE, lw=0.8)
    top.spines["left"].set_visible(False)
    top.xaxis.set_major_locator(MaxNLocator(nbins=5))
    top.set_xlabel("AUC" + (", with intervals" if any(band for _, _, band, *_ in three) else ""))
    if len(course) < 2:
        return
    below = _axes(figure, 58, height - 178, _WIDTH - 58 - 16, 120)
    rounds, scores = [at for at, _ in course], [value for _, value in course]
    for label, value, _, colour, _ in three:
        if label != NAMES[1]:
            below.axhline(value, color=colour, lw=1.6, ls="--" if label == NAMES[0] else ":", label=label.split(",")[0])
    below.plot(rounds, scores, color=_SERIES[0], lw=2, marker="D" if len(rounds) <= 30 else "", ms=4, label="Federated")
    below.set_ylabel("AUC")
    below.set_xlabel("round")
    _whole_rounds(below, rounds)
    below.grid(axis="y", color=_LINE, lw=0.8)
    _legend(figure, below, height - 12)


def _privacy(report: Report, figure: Figure) -> None:
    # Silos that spent the same would hide each other's line, so they share one.
    groups: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for series in report.privacy.spent:
        groups.setdefault(tuple((point.round, point.epsilon) for point in series.points), []).append(series.silo)
    caps = sorted({silo.epsilon_cap for silo in report.permitted if silo.epsilon_cap is not None})
    names = [_shared(silos) for silos in groups.values()]
    drawn = [
        *names,
        f"asked: {text.given(report.privacy.epsilon)}",
        *(f"lowest cap: {text.given(cap)}" for cap in caps[:2]),
    ]
    _resize(figure, 264 + 18 * -(-len(drawn) // _columns(drawn)))
    axes = _axes(figure, 48, 10, _WIDTH - 48 - 16, 200)
    rounds = sorted({at for points in groups for at, _ in points})
    for position, (points, name) in enumerate(zip(groups, names, strict=True)):
        axes.plot(
            [0, *(at for at, _ in points)],
            [0.0, *(value for _, value in points)],
            color=_SERIES[position % len(_SERIES)],
            ls=_DASHES[position % len(_DASHES)],
            marker=_MARKERS[position % len(_MARKERS)] if len(points) <= 30 else "",
            ms=4.5,
            lw=2,
            label=name,
        )
    asked = report.privacy.epsilon
    axes.axhline(asked, color=_INK, lw=1.4, ls=(0, (5, 3)), label=f"asked: {text.given(asked)}")
    for position, cap in enumerate(caps[:2]):
        lowest = "lowest cap" if len(caps) > 1 and not position else "cap" if len(caps) == 1 else "next cap"
        axes.axhline(
            cap, color=_BAD, lw=1.8, ls="-" if not position else (0, (9, 2)), label=f"{lowest}: {text.given(cap)}"
        )
    highest = max([asked, *caps[:2], *(value for points in groups for _, value in points)])
    axes.set_ylim(0, highest * 1.08 or 1)
    axes.set_xlim(0, max(rounds, default=1))
    axes.set_ylabel("epsilon spent")
    axes.set_xlabel("round")
    _whole_rounds(axes, rounds or [0, 1])
    axes.grid(axis="y", color=_LINE, lw=0.8)
    _legend(figure, axes, 10 + 200 + 48)


def _shared(silos: list[str]) -> str:
    names = ", ".join(silos)
    return names if len(names) <= 48 else f"{silos[0]} and {len(silos) - 1} more, alike"


def _whole_rounds(axes: Axes, rounds: list[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.margins(x=0.03 if len(rounds) > 1 else 0.5)


def _resize(figure: Figure, height: float) -> None:
    figure.set_size_inches(_WIDTH / 72, height / 72)


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in SVG units from the top left corner."""
    total = figure.get_size_inches()[1] * 72
    axes: Axes = figure.add_axes((left / _WIDTH, 1 - (top + height) / total, width / _WIDTH, height / total))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def _legend(figure: Figure, axes: Axes, top: float) -> None:
    """The key to the lines, `top` SVG units from the top: in as many columns as its longest name allows."""
    handles, labels = axes.get_legend_handles_labels()
    total = figure.get_size_inches()[1] * 72
    place = (36 / _WIDTH, 1 - top / total)
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=place, ncols=_columns(labels), frameon=False, handlelength=3
    )


def _columns(labels: list[str]) -> int:
    longest = max(map(len, labels))
    return 1 if longest > 18 else 2 if longest > 10 else 3


def _svg(report: Report, paint: Callable[[Report, Figure], None], key: str, title: str, description: str) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.hashsalt": "silo",
                "svg.fonttype": "none",
                "font.size": _FONT,
                "text.color": _INK,
                "axes.edgecolor": _MUTED,
                "axes.labelcolor": _INK,
                "axes.axisbelow": True,
                "xtick.color": _MUTED,
                "ytick.color": _MUTED,
                "xtick.labelcolor": _INK,
                "ytick.labelcolor": _INK,
                "legend.borderaxespad": 0.0,
                "legend.borderpad": 0.0,
                "legend.labelspacing": 0.3,
                "axes.formatter.use_mathtext": False,
                "text.parse_math": False,
            }
        )
        figure = Figure()
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        paint(report, figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    return _inline(out.getvalue(), key, title, description)


def _inline(document: bytes, key: str, title: str, description: str) -> str:
    """Matplotlib's document as an element of an HTML page: no prolog, namespaces, page-wide style or unused ids."""
    root = ET.fromstring(document)  # noqa: S314 - written by matplotlib a moment ago
    used = set()
    for element in root.iter():
        for name in ("clip-path", _HREF):
            if "#" in element.get(name, ""):
                used.add(element.get(name, "").split("#")[1].rstrip(")"))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        href = element.attrib.pop(_HREF, None)
        if href is not None:
            element.set("href", f"#{key}-{href[1:]}")
        if "clip-path" in element.attrib:
            element.set("clip-path", element.get("clip-path", "").replace("#", f"#{key}-"))
        identity = element.attrib.pop("id", None)
        if identity in used:
            element.set("id", f"{key}-{identity}")
        style = element.get("style")
        if style is not None:
            for colour, variable in _VARIABLES.items():
                style = style.replace(colour, variable)
            element.set("style", _page_font(style))
        element.text = (element.text or "").strip() or None
        element.tail = None
    for noise in ("width", "height", "version"):
        root.attrib.pop(noise, None)
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-labelledby", f"{key}-title {key}-desc")
    for position, (tag, words) in enumerate((("title", title), ("desc", description))):
        label = ET.Element(tag, {"id": f"{key}-{tag}"})
        label.text = text.readable(words)
        root.insert(position, label)
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def _page_font(style: str) -> str:
    """Matplotlib names its own fonts; the page's is inherited, only the size stays."""
    parts = [part.strip() for part in style.split(";") if part.strip()]
    return "; ".join(f"font-size: {_FONT}px" if part.startswith("font:") else part for part in parts)
