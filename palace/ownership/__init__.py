"""Which process may open the palace: lock, epoch, claim, record, exclusive use."""
