"""Views to weights to scores."""
