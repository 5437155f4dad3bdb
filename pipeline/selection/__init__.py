"""Which responses are trained on, and the rewards that rank them."""
