"""Published data formats, one file each: what tells a format, and its rows as rows of ours."""
