"""`numclip serve`: a model behind HTTP, for many clients at once (extra `serve`)."""
