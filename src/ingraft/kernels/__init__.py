"""What a merge and its proof do to every stored number or byte: one pass over contiguous arrays, outside of the GIL."""
