"""Doors for code written for other libraries."""
