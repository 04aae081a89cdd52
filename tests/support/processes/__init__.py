"""Real processes: sites, clients, brokers, and what is seen of them from outside."""
