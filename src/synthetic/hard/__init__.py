"""Heads deformed from a real one and imaged as by a scanner, with small, old and hidden bleeds."""
