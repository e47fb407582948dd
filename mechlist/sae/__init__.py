"""Sparse autoencoders (SAEs): loading, attribution to features in the memory of one, ablation, overlap of topics."""
