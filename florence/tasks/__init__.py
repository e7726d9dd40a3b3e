"""Tasks: one file each, all behind `florence.tasks.base.Task`."""
