"""`python -m numclip_runtime` is `numclip run`."""

from numclip_runtime.cli import main

main()
