"""Tests of a site that outgrows one machine: several of them, a follower, plans that are used up."""
