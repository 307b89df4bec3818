"""Evaluate predictions: the competition's metric, and statistics by slice and study with confidence intervals."""
