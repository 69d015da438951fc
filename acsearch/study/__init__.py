"""A study: `study` is the walk of a candidate, `stored` reads and writes it, `snapshot` is what is known of it."""
