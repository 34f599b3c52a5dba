"""Forms in which an export is handed on: a page for a browser, a repository on a hub."""
