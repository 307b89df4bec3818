"""Combine the predictions of many networks into one submission."""
