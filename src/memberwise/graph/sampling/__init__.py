"""Samplers: requests for neighbourhoods in, padded trees out."""
