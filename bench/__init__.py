"""Measurements: what Pipit costs, and side by side with what one would pick instead. Figures are kept in results/."""
