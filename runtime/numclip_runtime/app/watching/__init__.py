"""`numclip-run --watch`: read the pictures of a folder as they come."""
