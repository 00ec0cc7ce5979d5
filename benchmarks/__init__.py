"""Benchmarks: each question measured against something else, in alternation, in one run.

Absolute times mean nothing from one machine to the next, nor from one hour to the next on a shared
one. What is printed to be read is therefore always a ratio. Nothing here asserts.
"""
