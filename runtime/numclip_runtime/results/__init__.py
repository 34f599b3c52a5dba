"""What a prediction says, and how it is shown and written, in Python, notebooks and files."""
