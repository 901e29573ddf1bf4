"""S²FT: some columns of the weights themselves."""
