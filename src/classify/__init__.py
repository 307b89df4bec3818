"""The convolutional networks: training and prediction. Nothing below this package imports torch."""
