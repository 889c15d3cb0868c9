"""What the commands do and print; stages know nothing of it."""
