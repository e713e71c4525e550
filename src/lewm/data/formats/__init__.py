"""Other people's data formats: each a reader, some also a writer, behind one interface."""
