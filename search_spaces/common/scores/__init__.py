"""Scores that systems share: of frozen features, of retrieval, of rankings and of answers."""

from naslab.search_spaces.common.scores.accuracy import accuracy, choice_accuracy
from naslab.search_spaces.common.scores.collapse import effective_rank, feature_std
from naslab.search_spaces.common.scores.features import BOTH, EVALUATION_BATCH, encode, labelled_few, score_features
from naslab.search_spaces.common.scores.knn import knn_accuracy
from naslab.search_spaces.common.scores.precision import Relevance, ranking_scores
from naslab.search_spaces.common.scores.probe import linear_probe_accuracy
from naslab.search_spaces.common.scores.retrieval import chance_scores, reranked, retrieval_scores

__all__ = [
    "BOTH",
    "EVALUATION_BATCH",
    "Relevance",
    "accuracy",
    "chance_scores",
    "choice_accuracy",
    "effective_rank",
    "encode",
    "feature_std",
    "knn_accuracy",
    "labelled_few",
    "linear_probe_accuracy",
    "ranking_scores",
    "reranked",
    "retrieval_scores",
    "score_features",
]
