"""Launching a job: the command line, a dry run, Ray Train, Ray Tune, a local Ray head and job submission."""
