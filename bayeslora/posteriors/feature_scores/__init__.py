"""Out-of-distribution scores of features, fitted beside a posterior."""
