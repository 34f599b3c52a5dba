"""Pictures in object stores and on the web, through fsspec (extra `remote`)."""
