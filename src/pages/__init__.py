"""What pages are made of: templates, one viewer (viewer.js), one style sheet (style.css), and slices packed for them.

A page is one HTML document that needs no network: everything it shows is in it, and its Content-Security-Policy lets it
run its own script alone.
"""

from src.pages.series import SeriesView, series_page

__all__ = ["SeriesView", "series_page"]
