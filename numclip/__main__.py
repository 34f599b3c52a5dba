"""`python -m numclip` is the command `numclip`."""

from numclip.entry import main

main()
