"""What a bundle says and how well: the in-process reference that deployments are held against."""
