"""Heads that are deformed from a real one's anatomy and seen as a scanner sees them: as hard to read as real CT."""
