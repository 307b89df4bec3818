"""CT slices: Hounsfield units, windows, geometry. Needs only numpy."""
