"""Benchmarks of what isocline fits: `isocline bench fit`."""
