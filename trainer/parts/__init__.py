"""What methods are made of: backbones, heads, momentum encoders, queues, Sinkhorn."""
