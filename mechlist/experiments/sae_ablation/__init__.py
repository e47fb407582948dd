"""Lists written with features of SAEs changed."""
