"""FOUND: a 1x1 convolution trained on the frozen features of a ViT, without labels."""
