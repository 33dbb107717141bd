"""The network of a finished `saliency train`: its files, and in use."""
