"""What a prediction says, and how it is shown: in Python, in a notebook, as a table."""
