"""The data set of the world: tables, benchmarks, labels and keypoint pairs."""
