"""The dilated residual networks that detectors are trained on, and what goes into them."""
