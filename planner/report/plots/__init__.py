"""Pictures of a plan: where it sits, which layers are where, how full the memory is; and of predictions.

Every function returns a `matplotlib.figure.Figure` and changes nothing global; save it with ``figure.savefig(path)``,
or leave it as the last line of a notebook's cell. Colours are told apart by colour-blind readers, and no figure depends
on colour alone.
"""

from planner.report.plots.accuracy import plot_accuracy
from planner.report.plots.frontier import plot_frontier
from planner.report.plots.layers import plot_layers
from planner.report.plots.memory import plot_memory
from planner.report.plots.placement import plot_placement
from planner.report.plots.roofline import plot_roofline
from planner.report.plots.timeline import plot_timeline

__all__ = [
    "plot_accuracy",
    "plot_frontier",
    "plot_layers",
    "plot_memory",
    "plot_placement",
    "plot_roofline",
    "plot_timeline",
]
