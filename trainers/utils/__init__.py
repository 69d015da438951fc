"""Small things that every package uses: strict files, atomic writes, locks, digests, progress."""
