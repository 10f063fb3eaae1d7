"""Find the neurons that carry a safety function in one model and transplant them to another."""

__version__ = "0.1.0"
