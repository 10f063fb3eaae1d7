"""What each `cnt` command does. `cnt_pipeline.cli` imports a module of this package only when its command runs."""
