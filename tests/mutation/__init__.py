"""Mutation testing of palace's rooms: small slips in the code that some test must notice."""
