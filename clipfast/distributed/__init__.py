"""The ranks of a group: how columns travel between them, and what is summed over them."""
