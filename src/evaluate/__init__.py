"""How good predictions are: the competition's metric and its parts."""
