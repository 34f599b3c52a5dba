"""`python -m numclip_export` is `numclip export`."""

from numclip_export.entry import export

export()
