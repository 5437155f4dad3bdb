"""Model folders and what goes into a model: processors, images, collation, heads."""
