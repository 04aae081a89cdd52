"""Situations that the doctor names, each with its remedy, which a test tries.

To add one: write what brings it about, and name it in a SITUATIONS with its finding's code, its
level, words of its remedy, and what somebody does who follows that.
"""
