"""mempalace behind one interface: hosting, embedding, stores, and calls as groups."""
