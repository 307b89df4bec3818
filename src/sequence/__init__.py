"""The second stage: what a classifier makes of each slice, seen in the light of all slices of its series."""
