"""What `doctor` says: findings about the machine and about the data sets, a line each with what to do."""
