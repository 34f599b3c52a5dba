"""Pictures: the formats that are opened, decoding, and what a folder contains."""
