"""Two rooms with a door between them: lewm's own small world."""
