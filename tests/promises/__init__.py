"""What the documents promise, the tests that hold it, and the slips that turn these tests red."""
