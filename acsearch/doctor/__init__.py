"""`acsearch doctor`: checks that everything a study needs works on this machine, and says what to do where not."""
