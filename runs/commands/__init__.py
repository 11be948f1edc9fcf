"""The commands of `naslab`, grouped by what they need: a study, its results, or a model to measure."""
