"""Costs before training: FLOPs and parameters, compiled programs of topologies without devices."""
