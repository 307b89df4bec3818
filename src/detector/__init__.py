"""The trained detector: networks, second stage and recipe as one object in memory and one folder on disk."""

from src.detector.detector import Detector

__all__ = ["Detector"]
