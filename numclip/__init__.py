"""Train CLIP to read ordered numbers off images (NumCLIP, arXiv 2408.03574)."""
