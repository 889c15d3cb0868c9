"""The validated log and catalogue: read, put in order of users once, cut into snapshots."""
