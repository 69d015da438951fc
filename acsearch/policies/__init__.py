"""What chooses the next finetune: acquisition functions, baselines, the Optuna sampler, replays, recommendations.

Pure, but for the sampler, which is Optuna's.
"""
