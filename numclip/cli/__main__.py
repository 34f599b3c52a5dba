"""`python -m numclip.cli`, as torchrun starts it, is `numclip-train`."""

from numclip.cli.train import main

main()
