"""From the scheduled form to the placed form."""
