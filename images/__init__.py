"""How the container images are named: what goes into them, looked up and hashed.

Standard library only, and nothing of palace: a CI job decides with it whether to build at all.
"""
