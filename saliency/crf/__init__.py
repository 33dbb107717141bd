"""The fully connected CRF that sharpens a saliency map."""
