"""Models that were trained with the authors' code, as numclip checkpoints."""
