"""How weights move: optimisers, and what the learning rate follows."""
