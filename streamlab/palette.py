"""Colours and the style of charts, for whatever is drawn: reports, stills, widgets.

Colours are those of Okabe and Ito (2008), which people with any colour vision can tell apart; red
(vermillion) always and only means: late.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BLUE",
    "FAINT",
    "GREEN",
    "INK",
    "LATE",
    "MUTED",
    "ORANGE",
    "PURPLE",
    "SERIES",
    "SKY",
    "STYLE",
]

INK, MUTED, FAINT = "#1b1f24", "#5d6570", "#d9dde2"
BLUE, SKY, GREEN, ORANGE, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7"
LATE = "#D55E00"

SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, "#8C6D1F", "#332288", MUTED)
"""The colours of several series, in their order; more series begin anew."""

STYLE: Any = {  # matplotlib types each key
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "timezone": "UTC",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
