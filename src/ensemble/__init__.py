"""Predictions of many networks in, one submission out."""
