"""Pages of the app: each has a layout and thin callbacks; what they do is plain functions beside them."""
