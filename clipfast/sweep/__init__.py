"""One sweep over the tiles of a matrix of pairs: what is cut, kept and visited, and the passes that run over it."""
