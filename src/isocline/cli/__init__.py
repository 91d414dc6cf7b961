"""What the commands do; their options are in `isocline_command`, which loads them."""

from isocline_command import fail, main

__all__ = ["fail", "main"]
