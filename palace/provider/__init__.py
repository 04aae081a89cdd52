"""Who brings memory to agents that are born, and takes it away from those that leave.

A slot in the user's configuration names the provider's two commands; palace runs them, and is a
provider itself.
"""
