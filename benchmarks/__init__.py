"""Speed, measured against what a user would run instead: in one run, taking turns, medians."""
