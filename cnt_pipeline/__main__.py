"""`python -m cnt_pipeline` is `cnt`."""

from cnt_pipeline.cli import main

main()
