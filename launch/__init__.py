"""Starts runs on TPU VMs, GKE, SkyPilot and Slurm."""
