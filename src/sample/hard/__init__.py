"""Heads deformed from a real one and seen as a scanner sees them, with small, old and hidden bleeds."""
