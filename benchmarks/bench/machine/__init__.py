"""State of the machine around a measurement."""
