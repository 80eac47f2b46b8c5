"""Predictions against what was measured: rows of truth files, priced as they stand, and how far off they are."""

from __future__ import annotations

from planner.profiling.accuracy.predictions import predictions_csv
from planner.profiling.accuracy.ranking import rank_correlations
from planner.profiling.accuracy.records import FIGURES, UNITS, Comparison, Skipped
from planner.profiling.accuracy.registry import LAYOUTS, accuracy_of, list_truth, load_truth, recognise
from planner.profiling.accuracy.report import Accuracy, GroupScore, Score, score

__all__ = [
    "FIGURES",
    "LAYOUTS",
    "UNITS",
    "Accuracy",
    "Comparison",
    "GroupScore",
    "Score",
    "Skipped",
    "accuracy_of",
    "list_truth",
    "load_truth",
    "predictions_csv",
    "rank_correlations",
    "recognise",
    "score",
]
