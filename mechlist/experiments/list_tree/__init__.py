"""How a list goes on after an item: end, filler or next item."""
