"""Rewards made of token statistics, written into signal.reward; and plain shaping of verifiable rewards."""
