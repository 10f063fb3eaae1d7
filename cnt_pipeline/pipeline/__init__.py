"""The chain: a study as steps, what the store already holds of them, and the function that builds each."""
