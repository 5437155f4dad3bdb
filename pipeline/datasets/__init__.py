"""Reading data sets: files, rows, images, splits."""
