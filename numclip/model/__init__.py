"""The NumCLIP model: backbone, prompts, text encoder and readout."""
