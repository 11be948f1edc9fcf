"""Loggers: a study's trials in TensorBoard, MLflow, Weights & Biases or trackio, beside the ledger."""

from naslab.runs.loggers.choice import LoggerChoice, make_loggers, named_loggers
from naslab.runs.loggers.relay import Loggers

__all__ = ["LoggerChoice", "Loggers", "make_loggers", "named_loggers"]
