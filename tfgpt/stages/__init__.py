"""What each stage of a run does; `pipeline` decides which of them are run."""
