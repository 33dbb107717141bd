"""Mean and standard deviation of ImageNet's training pixels, of values in 0 .. 1, RGB.

Those of torchvision's reference training, with which the networks of the papers were normalised.
"""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
