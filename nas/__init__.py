"""Which configuration to try next: a differentiable engine and ask-and-tell samplers over one space."""
