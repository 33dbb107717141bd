"""What evaluations score on: images, labels, masks, pixels."""
