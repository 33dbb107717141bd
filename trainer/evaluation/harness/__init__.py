"""What is scored, with which weights, and what becomes of the scores."""
