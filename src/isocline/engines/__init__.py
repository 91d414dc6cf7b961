"""What executes the loop. `eager` runs PyTorch operations, one step at a time."""
