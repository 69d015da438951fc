"""Where studies are kept: Optuna's storage, leases on pieces of work, and retries while a database is away."""
