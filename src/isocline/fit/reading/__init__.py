"""A table as people have it, a file, several, or a data frame, in; series of known roles and times out."""
