"""What a CT slice means: Hounsfield units, windows, geometry. numpy only."""
