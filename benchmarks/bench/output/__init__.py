"""Results as a text table, Markdown, CSV, and an HTML page."""
