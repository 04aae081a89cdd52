"""`palace doctor`: why nobody can write here, or what else is wrong, each with its remedy.

Each module looks at one thing and yields findings in the order in which they explain each other;
nothing is changed by looking, no lock is tried (who tries takes it from somebody for an instant).
"""
