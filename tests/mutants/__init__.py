"""Mutation testing: small changes of the pure modules, each of which some test has to notice (`make mutants`)."""
