"""`--monitor` and `--write-reference` of `numclip-run`."""
