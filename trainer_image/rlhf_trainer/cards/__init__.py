"""What products say of themselves to people: README.md."""
