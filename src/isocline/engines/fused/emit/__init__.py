"""Tile programs as source code: a field with its solver in C or JavaScript, and programs compiled for the tile machine."""
