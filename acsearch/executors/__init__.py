"""Where the work of a study is done: in processes beside the controller, or as jobs of Slurm."""
