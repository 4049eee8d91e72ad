"""Which clips to keep: conditions, quantiles, a person's overrides, and what they came to."""
