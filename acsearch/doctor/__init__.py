"""`acsearch doctor`: what stands in the way of a study on this machine, and what to do about it."""
