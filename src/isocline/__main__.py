"""`python -m isocline`: the command, where its script is not on the path (torchrun -m isocline …)."""

from isocline.cli import main

main()
