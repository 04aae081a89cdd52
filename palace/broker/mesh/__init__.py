"""Stock's mesh: pulling from peers, and what is known of them."""
