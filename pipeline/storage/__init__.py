"""Bytes that last: stores, content-addressed objects, folders in the store, parquet."""
