"""The CAM and STS services: identities, keys, the policies in force, and what was decided."""
