"""The floor: the same work in plain PyMongo. The same documents, indexes, write concerns and fences; no trio, no
streamq, nothing that a real program would need besides."""
