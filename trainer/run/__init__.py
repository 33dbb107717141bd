"""The training loop: settings, optimisers, schedules, checkpoints, run folder."""
