"""The fused engine's front: a field as a tile program (`trace`), its derivative (`derive`), both as text (`program`)."""
