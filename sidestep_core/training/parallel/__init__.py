"""One training on several devices or machines: ranks.Ranks."""
