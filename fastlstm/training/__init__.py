"""Training: gradients as nodes of the same graph, losses, optimizers, and the loop around them."""
