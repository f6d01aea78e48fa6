"""Launchers and what is known before a launch: pods, GKE, compiled programs."""
