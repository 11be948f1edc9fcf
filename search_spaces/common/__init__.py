"""What the spaces share: training, modules, objectives, scores, controls, and what they cost in closed form."""
