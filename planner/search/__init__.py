"""The decisions: one file per search method, all with one signature."""

from planner.search.problem import Budget, Progress, Searcher, SearchResult, ServingProblem, TrainingProblem

__all__ = ["Budget", "Progress", "SearchResult", "Searcher", "ServingProblem", "TrainingProblem"]
