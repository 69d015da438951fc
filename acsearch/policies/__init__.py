"""How the next finetune is chosen: acquisition functions, baselines, the Optuna sampler, replays, recommendations.

All functions here are pure, except for the sampler, which reads the trials of an Optuna study.
"""
