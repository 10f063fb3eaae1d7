"""Selection rules: how many of the ranked neurons move, judged on selection prompts through the gates."""
