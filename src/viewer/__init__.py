"""A local page to read studies in: files are dropped, studies are read and answered, slices are scrolled through."""
