"""What is sampled: slices of the pool, shards and their keys, and the engine's protocol."""
