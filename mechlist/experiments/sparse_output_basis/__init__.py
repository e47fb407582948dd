"""Whether the unembedding can be sparse, and what the model writes from nothing."""
