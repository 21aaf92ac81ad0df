"""What Pipit is measured against: the smallest program of each kind that sends the same page."""
