"""The AC law: its features, the form that the paper published, the Bayesian form, priors and diagnostics.

Pure: takes arrays, returns dataclasses.
"""
