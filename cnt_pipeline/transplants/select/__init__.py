"""Selection rules: which of the ranked neurons move and how far, judged on selection prompts through the gates."""
