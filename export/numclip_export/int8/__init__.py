"""INT8: which layers, with which scales, and in which form each target runs them."""
