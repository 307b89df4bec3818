"""Heads of a few dozen simple shapes, with large bright bleeds: what a network learns from in minutes."""
