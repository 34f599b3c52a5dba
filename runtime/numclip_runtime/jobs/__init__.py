"""Jobs that go on after a crash: a folder of parts, and the manifest of what made them."""
