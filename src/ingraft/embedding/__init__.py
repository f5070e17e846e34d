"""A file of texts into a file of vectors: streamed, resumable, on one machine or on a Ray cluster."""
