"""Where the numbers of the cost model come from, and how far its predictions are from what was measured."""
