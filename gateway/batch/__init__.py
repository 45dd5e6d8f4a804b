"""The Batch service 2017-03-12: jobs, tasks, instances, environments, nodes."""
