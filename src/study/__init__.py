"""New studies: from files of any kind to the series that a detector reads, its answers, and results as files."""
