"""Performance claims, one script each: a ratio measured in one run, against its limit. `make bench` runs them all."""
