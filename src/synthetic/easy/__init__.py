"""Heads made of a few dozen simple shapes, with large bright bleeds that a network learns to detect in minutes."""
