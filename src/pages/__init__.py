"""What pages are made of: templates, scripts, one style sheet (style.css), and slices packed for them.

A page is one HTML document that needs no network: everything it shows is in it, and its Content-Security-Policy lets it
run its own script alone. The scripts are modules of one thing each: `viewer.js` is the viewer and says what a page may
call, `link.js` links two of them, and `series.js` begins where a page holds its series (src/pages/scripts.py).
"""

from src.pages.series import SeriesView, series_page

__all__ = ["SeriesView", "series_page"]
