"""The true scores of every candidate of the micro study: `python -m studies.micro.truth` finetunes them all."""
