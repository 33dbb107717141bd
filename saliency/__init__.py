"""An image to a soft map to a mask: classical detectors and DeepUSPS2."""
