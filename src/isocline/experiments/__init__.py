"""Published experiments, one a file: its data, its model, its training, its picture."""
