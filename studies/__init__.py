"""Studies that ship with acsearch, one folder each."""
