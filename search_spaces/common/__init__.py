"""What the spaces share: training, modules, objectives, controls, and what they cost in closed form."""
