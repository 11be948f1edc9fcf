"""What training asks of a model: to tell pairs apart, to match them, to fill in what was masked."""
