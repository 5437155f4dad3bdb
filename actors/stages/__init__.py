"""The stage worker: what is done with stored shards, outside the driver's process."""
