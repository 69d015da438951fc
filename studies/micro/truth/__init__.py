"""What every candidate of the micro study really scores: `python -m studies.micro.truth` finetunes them all."""
