"""Files of weights: ours, published ones and Hugging Face's, with every tensor accounted for."""
