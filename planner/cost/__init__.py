"""What a thing costs: operators on a GPU, collectives on links, memory, serving and training."""
