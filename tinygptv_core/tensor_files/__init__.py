"""Files that hold tensors, ours and others': safetensors and pickles, alone, in shards, in folders."""
