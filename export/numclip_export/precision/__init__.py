"""FP16 graphs, and the search for the parts that must stay in float32."""
