"""Keys and values of one block in each of the tiers where they can be kept."""
