"""One page about a run of the pipeline, made by `make`; and `montage`, which draws slices side by side."""
