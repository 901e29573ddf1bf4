"""Changes of linear layers: sites, starts, injection, exchange with PEFT."""
