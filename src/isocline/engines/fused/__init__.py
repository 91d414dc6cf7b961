"""The fused engine: a field as a tile program (`trace`), its derivative (`derive`), and the machine that solves with both."""
