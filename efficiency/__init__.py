"""What each configuration costs. Useful by itself: `from efficiency import profile`."""
